"""The program: a command, its exit status, and one line where something is wrong."""

import contextlib
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from pie_report.commands import COMMANDS, EXAMPLES
from pie_report.parsing import parse
from population.errors import InputError, unknown_name

_EXIT_FAILED, _EXIT_INPUT = 1, 2
#: Signals that end a command in order. Its exit status is then 128 and the signal, as a shell has it.
_STOPS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``pie``.

    Args:
        argv: arguments without the program's name; by default those of the process.

    Returns:
        0, 1 if something failed, 2 for bad input, 130 after Ctrl-C, 141 if nobody reads the output, 143 after
        SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(_overview())
        return 0 if arguments else _EXIT_INPUT
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"pie-toolkit {version('pie-toolkit')}")
        return 0
    if arguments[0] not in COMMANDS:
        _complain(unknown_name("command", arguments[0], COMMANDS))
        return _EXIT_INPUT
    return _run_command(arguments[0], arguments[1:])


def main_report() -> int:
    """Entry point of ``pie-report``, short for ``pie report``."""
    wants_version = sys.argv[1:] == ["--version"]
    return main(["--version"] if wants_version else ["report", *sys.argv[1:]])


def _run_command(name: str, arguments: list[str]) -> int:
    flags_type, command = COMMANDS[name]
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    debug = "--debug" in arguments
    with _stops_caught() as caught:
        try:
            command(parse(flags_type, name, arguments))
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has left, as head does. Python would complain once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except (KeyboardInterrupt, Exception) as error:
            if caught:  # whatever libraries made of the interruption on its way
                _complain(f"{_STOPS[caught[0]]}; the same command goes on from here")
                return 128 + caught[0]
            is_input = isinstance(error, InputError)
            if debug:
                traceback.print_exc()
            elif is_input:
                _complain(error)
            else:
                _complain(f"failed: {type(error).__name__}: {error} (--debug shows where)")
            return _EXIT_INPUT if is_input else _EXIT_FAILED
    return 0


@contextlib.contextmanager
def _stops_caught() -> Iterator[list[signal.Signals]]:
    """Makes each signal of ``_STOPS`` a KeyboardInterrupt, so that work ends in order; lists those caught."""
    caught: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        caught.append(signal.Signals(number))
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _STOPS}
    # A shell's script makes what it starts in the background deaf to Ctrl-C.
    heard = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, stop)
    try:
        yield caught
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _complain(message: object) -> None:
    print(f"pie: {' '.join(str(message).split())}", file=sys.stderr)


def _overview() -> str:
    lines = ["usage: pie COMMAND [OPTIONS]", "", "What does a network forget when it is made smaller?", ""]
    for name, (flags_type, _) in COMMANDS.items():
        summary = (flags_type.__doc__ or "").splitlines()[0]
        lines.append(f"  {name:9} {summary}")
    lines += [
        "",
        "pie COMMAND --help lists the options of a command; pie --version the version.",
        "",
        "examples:",
    ]
    return "\n".join([*lines, *(f"  {example}" for example in EXAMPLES.values())])


if __name__ == "__main__":
    sys.exit(main())
