"""The errors a user may see: each becomes one clear line and an exit code, never a traceback.

Say what is wrong, where, and what would mend it. Anything else that is raised is a defect of ours.
"""


class BenchError(Exception):
    """A failure that is explained to the user; ends the command with `exit_code`."""

    exit_code = 1


class InputError(BenchError):
    """The user's input (suite, data, folder, option) is wrong; nothing was started."""

    exit_code = 2


class DivergedError(BenchError):
    """Training left the finite numbers; `step` says when."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__(f"diverged at step {step}: {what}")
        self.step = step


class NotFiniteError(BenchError):
    """A model's images are not finite numbers."""


class DamagedWeightsError(InputError):
    """A finished training's weights are not what was written."""


class UnavailableError(BenchError):
    """A feature extractor or measure can't be had here (weights missing, say); the rest goes on without it."""
