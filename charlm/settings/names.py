"""What a wrong name, or the name that other tools use, most probably stands for."""

from __future__ import annotations

from charlm.errors import nearest_name
from charlm.settings.config import GROUPS, Config, Settings

# What other tools call a setting, without case and separators.
USUAL_SETTINGS = {
    "model.cell": "rnn rnntype celltype model modeltype arch architecture type",
    "model.embedding_size": "embedding embeddings embed embedsize embeddim embeddingdim embsize embdim emsize nembd",
    "model.hidden_size": "hidden units rnnsize lstmsize hiddendim hiddenunits numunits numhidden nhidden nhid rnnunits",
    "model.num_layers": "layers layer numlayer nlayers nlayer depth",
    "model.direction": "bidirectional",
    "model.initialiser": "initializer initialization init weightinit",
    "model.dropout": "drop dropoutrate dropoutprob dropoutprobability",
    "model.weight_dropout": "recurrentdropout wdrop",
    "vocab.kind": "tokenizer",
    "vocab.filter": "lower lowercase",
    "data.corpus": "data file files filename path text input inputfile dataset datafile datadir datapath textfile "
    "trainfile source",
    "data.validation_fraction": "validation validationsplit valsplit valfraction valfrac valratio",
    "data.test_fraction": "testsplit testfrac testratio",
    "train.steps": "iterations iters iter maxiters maxiter maxiterations numiterations maxsteps numsteps trainsteps "
    "updates",
    "train.epochs": "epoch numepochs nepochs maxepochs",
    "train.time": "seconds duration timelimit maxtime",
    "train.batch_size": "batch bs minibatch minibatchsize",
    "train.block_size": "seqlength seqlen sequencelength sequencesize bptt context contextlength contextsize window "
    "windowsize chunklen chunksize unroll timesteps",
    "train.optimizer": "optimiser optim opt",
    "train.learning_rate": "lr rate eta",
    "train.weight_decay": "wd l2 decay",
    "train.warmup_fraction": "warmup",
    "train.schedule": "scheduler lrschedule lrscheduler",
    "train.step_factor": "learningratedecay lrdecay decayrate gamma",
    "train.step_after_epochs": "learningratedecayafter",
    "train.clip_norm": "clip gradclip gradientclip gradientclipping gradclipnorm maxgradnorm maxnorm clipgrad",
    "train.evaluations": "evals numevals",
    "train.patience": "earlystopping earlystop",
    "train.sample_every": "sampleinterval printevery",
    "train.precision": "dtype",
    "train.threads": "numthreads nthreads cores numworkers",
    "seed": "randomseed rngseed manualseed",
}
# What other tools call an option, without case and separators.
USUAL_OPTIONS = {
    "--model": "checkpoint checkpointpath ckpt modelpath modelfile run load initfrom",
    "--corpus": "data datapath file dataset text input",
    "--out": "output outdir outputdir savedir checkpointdir savepath save",
    "--resume": "continue restore checkpoint",
    "--from": "initfrom base basemodel pretrained finetune",
    "--length": "numchars nchars chars characters maxlength maxtokens maxnewtokens numtokens tokens size",
    "--num": "numsamples nsamples samples count",
    "--temperature": "temp",
    "--seed": "randomseed",
    "--top": "topk topn k",
    "--fetch": "download",
    "--family": "cells families",
    "--vocabulary": "vocab vocabfile",
}
# The same of what stands without an option.
_MODEL = "model m checkpoint ckpt modelpath modelfile"
USUAL_ARGUMENTS = {
    "prompt": "prompt start starttext startstring prime primetext seedtext input text",
    "text": "prompt start starttext startstring prime primetext seedtext input text",
    "config": "config configfile settings settingsfile",
    "cell": "cell celltype",
    "file": f"file input inputfile path {_MODEL}",
} | dict.fromkeys(("run", "runs", "models"), f"runs run models {_MODEL}")
USUAL_COMMANDS = {
    "train": "learn fit resume continue finetune",
    "sample": "generate write complete run inference",
    "predict-next": "predict next interactive repl",
    "eval": "evaluate test score perplexity validate",
    "fill": "infill",
    "compare": "runs list ls results",
    "average": "mean merge soup swa",
    "explain": "cells cell describe show info",
    "export": "convert onnx",
    "import": "load",
    "corpora": "corpus data datasets download",
    "bench": "benchmark speed",
}


def all_settings() -> dict[str, str]:
    """Return the dotted name of every setting, with its name inside its group."""
    groups: dict[str, type[Settings]] = {f"{name}.": model for name, model in GROUPS.items()} | {"": Config}
    return {
        f"{group}{name}": name
        for group, model in groups.items()
        for name, field in model.model_fields.items()
        if field.description
    }


def usual_setting(key: str) -> str | None:
    """Return the dotted name of a setting that is spelled otherwise, or has this name in other tools, or None."""
    word = plain(key.rpartition(".")[2])
    own = next((setting for setting, name in all_settings().items() if plain(name) == word), None)
    return own or next((setting for setting, names in USUAL_SETTINGS.items() if word in names.split()), None)


def meant_setting(key: str) -> str | None:
    """Return the dotted name of the setting that a wrong name most probably stands for, or None.

    Args:
        key: with or without a group, such as `hidden-size`, `units` or `learning_rat`.
    """
    if setting := usual_setting(key):
        return setting
    (group, _, name), settings = key.rpartition("."), all_settings()
    for names, least in (
        ({own: setting for setting, own in settings.items() if setting.startswith(f"{group}.")}, 0.6),
        ({own: setting for setting, own in settings.items()}, 0.85 if group else 0.75),
    ):
        if near := nearest_name(name, names, least):
            return names[near]
    return None


def plain(name: str) -> str:
    """Return a name without case and separators."""
    return "".join(filter(str.isalnum, name.lower()))
