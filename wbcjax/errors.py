"""The errors a user can cause. Each message names the file, box or field and the remedy; the CLI exits with 2."""


class WbcjaxError(Exception):
    """Base class: the command line prints the message on one line and exits with status 2."""


class ConfigError(WbcjaxError):
    """A configuration field has an unknown name or an impossible value."""


class DataError(WbcjaxError):
    """A file or folder of input data is missing, damaged or not what was asked for."""


class CheckpointError(WbcjaxError):
    """A checkpoint is missing, damaged, or belongs to another model or configuration."""


class NonFiniteError(WbcjaxError):
    """Training met a NaN or an infinity; the message names the step, the quantity and the files of the batch."""
