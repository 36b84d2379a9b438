"""The one command: ``python -m resattn train | maps | dino | search | run | report``, each with ``--help``."""

import argparse
import ast
import os
import signal
import sys
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.config import LEARNED, TrainConfig, add_settings, chosen_settings
from resattn.settings import add_options, given

Options = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit status is 0 if all went well, 1 if a run failed, 2 for bad options or files, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m resattn", description="Train, compare and report attention-gated networks."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (purpose, declare, act) in VERBS.items():
        # Without abbreviations: the search has no --lr, which must not be taken for --lr-range.
        verb = verbs.add_parser(name, help=purpose, description=purpose, allow_abbrev=False)
        verb.set_defaults(act=act)
        declare(verb)
    options = vars(parser.parse_args(argv))
    try:
        return options.pop("act")(options)
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept; the same command goes on from there.", flush=True)
        return 130
    except ModuleNotFoundError as error:
        print(f"{parser.prog} {argv[0]}: {error.name} is missing: pip install 'resattn[notebooks]'", file=sys.stderr)
        return 2
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{parser.prog} {argv[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, (FloatingPointError, ChildProcessError)) else 2


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--records", type=Path, default=paths.RUNS / "records", help="folder for the record")
    add_settings(parser)


def _train(options: Options) -> int:
    config = chosen_settings(options)
    from resattn.training import trainer  # after the check: it takes seconds

    metrics = trainer.train(config, records=options["records"])["metrics"]
    if not int(os.environ.get("RANK", 0)):  # under torchrun one process speaks for all
        print(f"test accuracy {100 * metrics['test_acc']:.2f} %")
        print(f"record: {options['records'] / f'{config.slug}.json'}")
    return 0


def _maps_options(parser: argparse.ArgumentParser) -> None:
    used = {"dataset", "root", "size", "skip_unreadable", "source", "base", "heads", "weights", "seed", "device"}
    add_options(parser, TrainConfig, without=tuple(TrainConfig.__dataclass_fields__.keys() - used))


def _maps(options: Options) -> int:
    config = TrainConfig(**given(options, TrainConfig))
    from resattn.data.datasets import load_dataset
    from resattn.training.environment import find_device
    from resattn.training.inputs import network_maps

    if config.source == LEARNED:
        raise ValueError(f"source must be one of finished maps; the network makes those of {LEARNED!r}")
    data = load_dataset(config.dataset, config.root, size=config.size, skip_unreadable=config.skip_unreadable)
    for split, maps in zip(("train", "test"), network_maps(config, data, find_device(config.device)), strict=True):
        print(f"{split}: {'x'.join(map(str, maps.shape))} maps of {config.source}, mean {maps.mean():.3f}")
    return 0


def _dino_options(parser: argparse.ArgumentParser) -> None:
    from resattn.dino.config import DinoConfig

    parser.add_argument("--out", type=Path, help="folder for all that is written; default runs/dino/<settings>")
    add_options(parser, DinoConfig)


def _dino(options: Options) -> int:
    from resattn.attention.tiny import build_vit
    from resattn.attention.vit import seeded
    from resattn.data.datasets import load_dataset
    from resattn.dino.config import DinoConfig
    from resattn.dino.pretrain import focus, pretrain
    from resattn.files import write_json

    config = DinoConfig(**given(options, DinoConfig))
    out = options["out"] or paths.RUNS / "dino" / config.slug
    record = pretrain(config, folder=out)
    if "test" in record["metrics"]:  # what chance alone achieves, to judge the trained one by
        test = load_dataset(config.dataset, config.root).test
        untrained = (seeded(i, lambda: build_vit(**config.vit)) for i in range(10))
        record["metrics"]["untrained"] = [focus(vit, test.images, test.masks) for vit in untrained]
    print(f"record: {write_json(out / 'record.json', record)}")
    return 0


def _search_options(parser: argparse.ArgumentParser) -> None:
    from resattn.experiments.search import SearchPlan

    add_options(parser, SearchPlan, without=("config",))
    journal = paths.RUNS / "search" / "search.journal"
    parser.add_argument("--storage", type=Path, default=journal, help="Optuna's journal file")
    parser.add_argument("--out", type=Path, help="the record (default: STUDY.json beside the journal)")
    _worker_options(parser)
    add_settings(parser, without=("lr", "weight_decay"))


def _search(options: Options) -> int:
    from resattn.experiments.search import SearchPlan, search

    plan = SearchPlan(chosen_settings(options), **given(options, SearchPlan))
    out = options["out"] or options["storage"].with_name(f"{plan.name}.json")
    search(plan, options["storage"], out=out, jobs=options["jobs"], scheduler=options["scheduler"])
    print(f"record: {out}")
    return 0


def _run_options(parser: argparse.ArgumentParser) -> None:
    from resattn.experiments.command import LISTS
    from resattn.experiments.notebooks import DATASETS

    add = parser.add_argument
    profiles = "demo: drawn shapes, minutes on two cores. reduced: CIFAR-10 at 64 pixels. paper: both CIFARs at the paper's settings, "
    profiles += "for a GPU (the default there, else demo). Without notebooks: controls; short, five epochs of reduced"
    add("--profile", choices=(*DATASETS, *LISTS), help=profiles)
    add("--dataset", help="this data set only: cifar10, cifar100, shapes, or a folder with train/ and test/")
    add("--seeds", type=_positive, help="seeds 0 to N-1 (demo: 2, else 3)")
    add("--data", metavar="DIR", type=_folder, help="where data sets live or are downloaded to (default: data/)")
    add("--out", metavar="DIR", type=Path, help="records of controls or short (default: runs/PROFILE/records)")
    _worker_options(parser)
    add("--cpu", action="store_true", help="run on the CPU, even if a GPU is here or it takes days")
    add("--only", metavar="PATTERN", default="*", help="only runs of such names, as '*printed-a1*'; see --dry-run")
    more = "change a setting of every run that has it, for example --set epochs=2; may be repeated"
    add("--set", metavar="NAME=VALUE", type=_change, action="append", default=[], help=more)
    add("--dry-run", action="store_true", help="list the runs and about what they cost, run nothing")


def _run(options: Options) -> int:
    from resattn.experiments.command import run

    n_failed, folder = run(options)
    if folder:
        _report({"records": folder / "records", "out": paths.REPORT})
    return min(n_failed, 1)


def _report_options(parser: argparse.ArgumentParser) -> None:
    records = "run records, figures/ and notebooks/ beside them (default: of the profile run last, else the committed)"
    parser.add_argument("--records", type=_folder, help=records)
    parser.add_argument("--out", type=Path, default=paths.REPORT, help="where to write (default: report/)")


def _report(options: Options) -> int:
    from resattn.report.page import build_report, newest_records

    records = options["records"] or newest_records()
    beside = records.resolve().parent
    print(f"report: {build_report(records, beside / 'figures', beside / 'notebooks', options['out'])}")
    return 0


def _worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=_positive, help="runs at the same time (default: one a core, or one a GPU)")
    parser.add_argument("--scheduler", metavar="ADDRESS|FILE", help="join the Dask cluster of this scheduler instead")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"must be a folder that exists, got {text}")
    return Path(text).resolve()


def _change(text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


VERBS = {
    "train": ("Train one network and write its record.", _train_options, _train),
    "maps": ("Compute the attention maps of a data set and keep them in the cache.", _maps_options, _maps),
    "dino": ("Pretrain a small ViT without labels.", _dino_options, _dino),
    "search": ("Search learning rate and weight decay by validation accuracy.", _search_options, _search),
    "run": ("Run a profile's notebooks, or a list of trainings; what is finished is skipped.", _run_options, _run),
    "report": ("Put all that was measured on one offline page.", _report_options, _report),
}

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # set, because nohup and background jobs start with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
