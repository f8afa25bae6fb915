"""The errors that cxnet raises on purpose, all of them a :class:`CxnetError`.

::

    CxnetError
    ├── RadiographError          the file cannot be used
    │   ├── UnsupportedFormat    not a format, transfer syntax or colour model that is read
    │   ├── DamagedFile          the format is known, its content is broken
    │   ├── TooLarge             over a limit that is checked before decoding
    │   └── OutOfScope           readable, but not a frontal chest radiograph
    ├── WeightsError             weights are missing, changed or do not fit the network
    ├── SettingsError            an option has a value that cannot work
    ├── DatasetError             a data set or run cannot be used as it is
    └── StatisticsError          a figure cannot be computed; it stands in cxnet.statistics

An application can add its own, as the pages of the dashboard do for a full queue of jobs.
The message is one sentence that a user can act on: what, why, what to do.
"""

from __future__ import annotations


class CxnetError(Exception):
    """Base of all errors raised on purpose."""


class RadiographError(CxnetError):
    """A file cannot be used as a radiograph."""


class UnsupportedFormat(RadiographError):
    """The format, transfer syntax or colour model is not read."""


class DamagedFile(RadiographError):
    """The format is known but its content is truncated or contradicts itself."""


class TooLarge(RadiographError):
    """A limit that is checked before decoding is exceeded."""


class OutOfScope(RadiographError):
    """The file is readable but is not a frontal chest radiograph."""


class WeightsError(CxnetError):
    """Weights are missing, do not match their checksum or do not fit the network."""


class SettingsError(CxnetError):
    """An option has a value that cannot work."""


class DatasetError(CxnetError):
    """A data set or a stored run cannot be used as it is."""
