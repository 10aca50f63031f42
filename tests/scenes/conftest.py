import pytest

from resight.scenes.drives import plan_video

LISA = {
    "addedLane", "curveLeft", "curveRight", "dip", "doNotEnter", "doNotPass", "intersection", "keepRight",
    "laneEnds", "merge", "noLeftTurn", "noRightTurn", "pedestrianCrossing", "rampSpeedAdvisory20",
    "rampSpeedAdvisory35", "rampSpeedAdvisory40", "rampSpeedAdvisory45", "rampSpeedAdvisory50",
    "rampSpeedAdvisoryUrdbl", "rightLaneMustTurn", "roundabout", "school", "schoolSpeedLimit25", "signalAhead",
    "slow", "speedLimit15", "speedLimit25", "speedLimit30", "speedLimit35", "speedLimit40", "speedLimit45",
    "speedLimit50", "speedLimit55", "speedLimit65", "speedLimitUrdbl", "stop", "stopAhead", "thruMergeLeft",
    "thruMergeRight", "thruTrafficMergeLeft", "truckSpeedLimit55", "turnLeft", "turnRight", "yield",
    "yieldAhead", "zoneAhead25", "zoneAhead45",
}  # fmt: skip


@pytest.fixture(scope="session")
def drives():
    """The default set, planned but not drawn."""
    return [plan_video(index, frames=12, seed=42) for index in range(40)]


@pytest.fixture
def lisa():
    """The classes of LISA."""
    return LISA
