"""Figures: how well a model predicts, what counting and compressing cost, how runs compare, how fast they are."""
