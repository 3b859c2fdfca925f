"""Exceptions of the library; most of them are errors that the user can correct.

The command line prints the message of a `UserError` without a traceback and exits with code 2. The message names the
file, the key, the value and what is accepted.
"""


class UserError(Exception):
    """The user's input is not valid; the message names the input and what is accepted."""


class ConfigError(UserError, ValueError):
    """A detector's configuration, or the TOML file that contains it, is not valid."""


class PluginError(UserError):
    """A plug-in cannot be loaded, or it registers an object that its group does not accept."""


class StudyError(UserError):
    """A study file, or an override of one of its keys, is not valid."""


class DataError(UserError):
    """A data set is missing or damaged, or its content is not as expected."""


class VictimError(UserError):
    """A model file cannot be loaded, or does not fit the data."""


class RunError(UserError):
    """A run folder is missing, incomplete, or does not belong to the study."""


class ClusterError(RunError):
    """The Ray cluster failed during a run; the run can be resumed."""


class RemoteGuardError(RunError):
    """The guard to which a run sends its queries cannot be reached, refuses them or differs; the run can be resumed."""


class GuardError(UserError):
    """The settings of a guard are not valid, or contradict what its filter was certified for."""


class InvalidImage(ValueError):
    """A submitted array is not a valid image; the state of the session is unchanged.

    This is not a `UserError`: a client sent the image, and the session continues.
    """


class DetectorError(RuntimeError):
    """A detector raised an exception; its session ends with the outcome ``failed``."""
