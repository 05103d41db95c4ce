import pytest

from targets.hls.hardware.resources import Resources
from targets.hls.parts import PARTS, find_part
from tensorc.errors import UserError


def test_a_part_is_found_by_name_and_by_number() -> None:
    part = find_part("xczu7ev")
    assert part is find_part("XCZU7EV") is find_part("xczu7ev-ffvc1156-2-e")
    assert part.available == Resources(lut=230_400, ff=460_800, bram18=624, uram=96, dsp=1_728)
    assert part.budget == Resources(lut=161_280, ff=230_400, bram18=499, uram=76, dsp=1_382)


def test_an_unknown_part_is_an_error_that_names_the_known() -> None:
    with pytest.raises(UserError, match="unknown FPGA part 'xc7z999': choose one of XC7Z010, ") as error:
        find_part("xc7z999")
    assert "\n" not in str(error.value)
    assert all(part.name in str(error.value) for part in PARTS)


def test_parts_are_told_apart() -> None:
    names = [name.lower() for part in PARTS for name in {part.name, part.number}]
    assert len(set(names)) == len(names)
    for part in PARTS:
        assert part.number.startswith(part.name.lower().removeprefix("xc").join(("xc", "")))
        assert part.uram == 0 or part.family == "xcup"
