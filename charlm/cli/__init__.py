"""The terminal: commands, their options, and what they print."""
