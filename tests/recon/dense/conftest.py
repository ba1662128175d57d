"""What the tests of scenes share."""

import re
from pathlib import Path

import pytest

from losses import InvalidSetting
from recon.dense.scenes import open_scenes


def the_error(match: str, data: str, root: Path | None, task: str = "segmentation", read: bool = False) -> None:
    """Opening the data, or reading every scene too, is refused with one line that has the words."""
    with pytest.raises(InvalidSetting) as error:
        sources = open_scenes(data, root, task)
        if read:
            [source.read(i) for source in sources for i in range(len(source))]
    message = str(error.value)
    assert len(message.splitlines()) == 1 and re.search(match, message), message
