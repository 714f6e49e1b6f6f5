"""`python -m bench`: hands over to the command line and turns what was foreseen into one line and an exit code."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exit 0 done, 1 something failed, 2 bad input, 130 interrupted."""
    try:
        from bench.cli import app
        from bench.errors import BenchError

        try:
            app(prog_name="bench")
        except BenchError as error:
            for line in str(error).splitlines():
                print(f"bench: {line}", file=sys.stderr)  # noqa: T201
            raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:  # while the command line was still being loaded, or for the second time
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except OSError as error:  # a disk or a network that fails under our hands: no defect of ours
        where = f"{error.filename}: " if error.filename else ""
        print(f"bench: {where}{error.strerror or error}; mend that, then run it again", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
