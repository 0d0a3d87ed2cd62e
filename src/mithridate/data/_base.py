"""What a data set of another distribution is: a class that is named by an entry point of `mithridate.datasets`."""

from abc import ABC, abstractmethod

from mithridate.data._raw import RawSet


class AbstractSource(ABC):
    """A data set by name. It is made without arguments when its name is used, and not before."""

    @abstractmethod
    def read(self) -> RawSet:
        """Return both splits, with their images not decoded yet.

        `RawSplit.of_pixels` makes a split of arrays; one with `batches` of its own may yield encoded images, which pass
        the decode boundary and are kept in the cache. `record["key"]` identifies the content: change it with the data.
        """
