"""The one command: ``python -m resattn train | maps | dino | search | run | report``, each with ``--help``."""

import argparse
import ast
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resattn import paths

Options = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the exit status is 0 if all went well, 1 if a run failed, 2 for bad options or files, 130 after Ctrl-C."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m resattn", description="Train, compare and report attention-gated networks."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for name, (purpose, add_options, act) in VERBS.items():
        # Without abbreviations: the search has no --lr, which must not be taken for --lr-range.
        verb = verbs.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}.", allow_abbrev=False
        )
        verb.set_defaults(act=act)
        if argv[:1] == [name]:  # the options of some verbs need torch
            add_options(verb)
    options = vars(parser.parse_args(argv))
    try:
        return options.pop("act")(options)
    except KeyboardInterrupt:
        print("\nInterrupted. What is finished is kept; the same command goes on from there.", flush=True)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"{parser.prog} {argv[0]}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2


def _train_options(parser: argparse.ArgumentParser) -> None:
    from resattn.config import add_settings

    parser.add_argument("--records", type=Path, default=paths.RUNS / "records", help="folder for the record")
    add_settings(parser)


def _train(options: Options) -> int:
    from resattn.config import chosen_settings

    config = chosen_settings(options)
    from resattn.training import trainer  # after the check: it takes seconds

    metrics = trainer.train(config, records=options["records"])["metrics"]
    if int(os.environ.get("RANK", 0)):
        return 0  # under torchrun one process speaks for all
    best = f"(best-validation epoch {100 * metrics['test_acc_at_best_val']:.2f} %)"
    print(f"test accuracy {100 * metrics['test_acc']:.2f} % {best}")
    print(f"record: {options['records'] / f'{config.slug}.json'}")
    return 0


def _maps_options(parser: argparse.ArgumentParser) -> None:
    from resattn.config import ATTENTION_SOURCES

    parser.add_argument("--dataset", default="shapes", help="default %(default)s")
    parser.add_argument("--root", help="where data sets live; default data/")
    parser.add_argument("--size", type=int, help="pixels on a side that a folder's images are resized to")
    parser.add_argument("--skip-unreadable", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--source", choices=ATTENTION_SOURCES, default="saliency", help="default %(default)s")
    parser.add_argument("--heads", default="mean", help="mean, max, all, or a number; default %(default)s")
    parser.add_argument("--weights", default="pretrained", help="pretrained, random, or a file; default %(default)s")
    parser.add_argument("--device", help="default: CUDA if present, else the CPU")


def _maps(options: Options) -> int:
    from resattn.attention.maps import dataset_maps
    from resattn.config import CLS_SOURCES
    from resattn.data.datasets import load_dataset
    from resattn.training.environment import find_device

    more = {"size": options["size"], "skip_unreadable": options["skip_unreadable"]}
    data = load_dataset(options["dataset"], options["root"], **more)
    settings = {"device": find_device(options["device"])}
    if options["source"] in CLS_SOURCES:
        heads = options["heads"]
        settings |= {"heads": int(heads) if heads.isdigit() else heads, "weights": options["weights"]}
    for split, maps in zip(("train", "test"), dataset_maps(data, options["source"], **settings), strict=True):
        print(f"{split}: {'x'.join(map(str, maps.shape))} maps of {options['source']}, mean {maps.mean():.3f}")
    return 0


def _dino_options(parser: argparse.ArgumentParser) -> None:
    from resattn.dino.config import DinoConfig
    from resattn.settings import add_options

    parser.add_argument("--out", type=Path, help="folder for all that is written; default runs/dino/<settings>")
    add_options(parser, DinoConfig)


def _dino(options: Options) -> int:
    from resattn.attention.tiny import build_vit, seeded
    from resattn.data.datasets import load_dataset
    from resattn.dino.config import DinoConfig
    from resattn.dino.pretrain import focus, pretrain
    from resattn.files import write_json
    from resattn.settings import given

    config = DinoConfig(**given(options, DinoConfig))
    out = options["out"] or paths.RUNS / "dino" / config.slug
    record = pretrain(config, folder=out)
    if "test" in record["metrics"]:  # what chance alone achieves, to judge the trained one by
        test = load_dataset(config.dataset, config.root).test
        untrained = (seeded(i, lambda: build_vit(**config.vit)) for i in range(10))
        record["metrics"]["untrained"] = [focus(vit, test) for vit in untrained]
    print(f"record: {write_json(out / 'record.json', record)}")
    print(f"weights: {out / 'vit.safetensors'}")
    return 0


def _search_options(parser: argparse.ArgumentParser) -> None:
    from resattn.config import add_settings
    from resattn.experiments.search import SearchPlan

    add = parser.add_argument
    add("--trials", type=int, default=SearchPlan.trials, help="random points (default %(default)s)")
    add("--grid", type=_sides, default=SearchPlan.grid, help="learning rates x weight decays (default 5x5)")
    add("--span", type=float, default=SearchPlan.span, help="grid's share of the ranges (default %(default)s)")
    add("--confirm", type=int, default=SearchPlan.confirm, help="further seeds for the best (default %(default)s)")
    for option, ends in (("--lr-range", SearchPlan.lr), ("--weight-decay-range", SearchPlan.weight_decay)):
        add(option, type=float, nargs=2, metavar=("LOW", "HIGH"), default=ends, help="default {:g} {:g}".format(*ends))
    add("--storage", type=Path, default=paths.RUNS / "search" / "search.journal", help="Optuna's journal file")
    add("--out", type=Path, help="the record (default: STUDY.json beside the journal)")
    _worker_options(parser)
    add_settings(parser, without=("lr", "weight_decay"))


def _search(options: Options) -> int:
    from resattn.config import chosen_settings
    from resattn.experiments.search import SearchPlan, search

    ranges = {name: tuple(options[f"{name}_range"]) for name in ("lr", "weight_decay")}
    numbers = {name: options[name] for name in ("trials", "grid", "span", "confirm")}
    plan = SearchPlan(chosen_settings(options), **numbers, **ranges)
    out = options["out"] or options["storage"].with_name(f"{plan.name}.json")
    try:
        search(plan, options["storage"], out=out, jobs=options["jobs"], scheduler=options["scheduler"])
    except RuntimeError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    print(f"record: {out}")
    return 0


def _run_options(parser: argparse.ArgumentParser) -> None:
    from resattn.experiments.jobs import DATASETS
    from resattn.experiments.notebooks import LISTS

    add = parser.add_argument
    add(
        "--profile",
        choices=(*DATASETS, *LISTS),
        help="demo: drawn shapes, minutes on two cores. reduced: CIFAR-10 at 64 pixels. paper: CIFAR-10 and CIFAR-100 at the paper's "
        "settings, for a GPU. Without notebooks: controls, what the paper did not compare with; short: five epochs of reduced. "
        "Default: paper where a CUDA GPU is present, else demo",
    )
    add("--dataset", help="this data set only: cifar10, cifar100, shapes, or a folder with train/ and test/")
    add("--seeds", type=_positive, help="seeds 0 to N-1 (demo: 2, else 3)")
    add("--data", metavar="DIR", type=_folder, help="where data sets live or are downloaded to (default: data/)")
    add("--out", metavar="DIR", type=Path, help="records of controls or short (default: runs/PROFILE/records)")
    _worker_options(parser)
    add("--cpu", action="store_true", help="run on the CPU, even if a GPU is here or it takes days")
    add(
        "--only",
        metavar="PATTERN",
        help="only runs whose name matches, such as '*printed-a1*'; --dry-run has the names",
    )
    more = "change a setting of every run that has it, for example --set epochs=2; may be repeated"
    add("--set", metavar="NAME=VALUE", type=_change, action="append", default=[], help=more)
    add("--dry-run", action="store_true", help="list the runs and about what they cost, run nothing")
    add("--fresh", action="store_true", help="delete this profile's earlier runs and start over")


def _run(options: Options) -> int:
    from resattn.experiments.notebooks import main

    return main(options, _report_on)


def _report_on(folder: Path) -> bool:
    """Make the report of what there is by now, even if only some runs ended well; returns whether it could be made."""
    from resattn.report.page import build_report

    for name in ("records", "figures", "notebooks"):
        if (folder / name).is_dir():
            print(f"  {name + ':':11s}{folder / name}")
    try:
        page = build_report(folder / "records", folder / "figures", folder / "notebooks", paths.REPORT)
    except (ValueError, OSError) as error:
        print(f"FAILED report: {error}")
        return False
    print(f"  {'report:':11s}{page}")
    return True


def _report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--records", type=_folder, help="run records (default: of the profile run last, else the committed ones)"
    )
    parser.add_argument("--figures", type=_folder, help="figures to show (default: figures/ beside the records)")
    parser.add_argument("--notebooks", type=_folder, help="executed notebooks (default: notebooks/ beside the records)")
    parser.add_argument("--out", type=Path, default=paths.REPORT, help="where to write (default: report/)")


def _report(options: Options) -> int:
    from resattn.report.page import build_report, newest_records

    records = options["records"] or newest_records()
    figures, notebooks = (options[name] or records.resolve().parent / name for name in ("figures", "notebooks"))
    print(f"report: {build_report(records, figures, notebooks, options['out'])}")
    return 0


def _worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=_positive, help="runs at the same time (default: one a core, or one a GPU)")
    parser.add_argument("--scheduler", metavar="ADDRESS|FILE", help="join the Dask cluster of this scheduler instead")


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _sides(text: str) -> tuple[int, int]:
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"must be two whole numbers such as 5x5, got {text!r}")
    return int(sides[0]), int(sides[1])


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


VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[Options], int]]] = {
    "train": ("train one network and write its record", _train_options, _train),
    "maps": ("compute the attention maps of a data set and keep them in the cache", _maps_options, _maps),
    "dino": ("pretrain a small ViT without labels", _dino_options, _dino),
    "search": ("search learning rate and weight decay by validation accuracy", _search_options, _search),
    "run": ("run a profile's notebooks, or a list of trainings; what is finished is skipped", _run_options, _run),
    "report": ("put all that was measured on one offline page", _report_options, _report),
}  # fmt: skip

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # set, because nohup and background jobs start with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    sys.exit(main())
