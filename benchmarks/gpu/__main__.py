"""The three commands; each imports no more than it needs."""

import argparse
import sys
from pathlib import Path

from rcopt.errors import InputError, WorkError

PLAN = Path(__file__).parent / "plan.toml"


def main() -> int:
    options = _options()
    try:
        if options.command == "pack":
            from benchmarks.gpu.pack import pack

            pack(options.plan, options.packed, images=options.images, cache=options.cache)
        elif options.command == "train":
            from benchmarks.gpu.train import train_plan

            train_plan(options.packed, options.results, limit=options.limit, device=options.device)
        else:
            from benchmarks.gpu.take import take

            take(options.packed, options.results, options.folder)
    except (InputError, WorkError) as error:
        print(f"benchmarks.gpu: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="write images, code and plan into a folder")
    pack.add_argument("packed", type=Path, help="folder to make")
    pack.add_argument("--plan", type=Path, default=PLAN)
    pack.add_argument("--images", type=Path, help="folder of images, instead of the plan's")
    pack.add_argument("--cache", type=Path, default=Path("mlruns/data"))
    train = commands.add_parser("train", help="train what is packed, in the plan's order")
    train.add_argument("packed", type=Path, help="what pack wrote")
    train.add_argument("results", type=Path, help="folder for the answers; may hold some")
    train.add_argument("--limit", type=float, default=540, help="seconds in all (default 540)")
    train.add_argument("--device", default="cuda")
    take = commands.add_parser("take", help="make stages of the answers")
    take.add_argument("packed", type=Path, help="what pack wrote")
    take.add_argument("results", type=Path, help="what train wrote")
    take.add_argument("folder", type=Path, help="folder of stages, FOLDER-1 for the next seed")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
