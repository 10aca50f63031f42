import pytest

from resight.cloud.aws import Aws
from resight.cloud.instances import InstanceType, choose_types
from resight.errors import ResightError

ALLOWED = ("g5.12xlarge", "g5.xlarge", "g4dn.xlarge")


def names(types):
    return [one.name for one in types]


def test_one_call_tells_what_the_types_have_and_cost(aws, prices):
    types = choose_types(Aws(), ALLOWED, None, None)
    assert [(one.name, one.usd, one.gpus) for one in types] == [
        ("g4dn.xlarge", 0.526, 1), ("g5.xlarge", 1.006, 1), ("g5.12xlarge", 5.672, 4)
    ]  # fmt: skip
    (asked,) = prices.requests
    assert asked["regionCode"] == "us-east-1" and asked["operatingSystem"] == "Linux" and asked["tenancy"] == "Shared"
    assert aws.calls == []  # nothing else was asked


def test_a_job_may_come_to_every_type_that_holds_it(aws, prices):
    assert names(choose_types(Aws(), ALLOWED, "g5.xlarge", None)) == ["g5.xlarge", "g4dn.xlarge", "g5.12xlarge"]
    assert names(choose_types(Aws(), ALLOWED, "g5.12xlarge", None)) == ["g5.12xlarge"]


def test_what_the_price_list_does_not_say_of_a_type_is_asked_for(aws, prices):
    prices["g5.xlarge"] = (1.006, {"vcpu": "4"})
    types = choose_types(Aws(), ALLOWED, None, None)
    assert aws.calls == ["ec2:DescribeInstanceTypes"] and len(prices.requests) == 1
    assert [(one.name, one.vcpus, one.memory, one.gpus, one.usd) for one in types] == [
        ("g4dn.xlarge", 4, 16384, 1, 0.526), ("g5.xlarge", 4, 16384, 1, 1.006), ("g5.12xlarge", 48, 196608, 4, 5.672)
    ]  # fmt: skip


def test_a_price_that_is_given_holds_for_all(aws, prices):
    assert {one.usd for one in choose_types(Aws(), ALLOWED, None, 2.5)} == {2.5}
    assert prices.requests == []


def test_a_job_leaves_memory_to_the_instance_and_shares_half_of_its_own():
    kind = InstanceType("g5.xlarge", 4, 16384, 1, 1.0)
    assert kind.job_memory == 14745 and kind.shared_memory == 7372


@pytest.mark.parametrize(
    ("allowed", "wanted", "price", "where", "said"),
    [
        (ALLOWED, "g5.2xlarge", None, "--instance", "g5.2xlarge is not one of the stack's"),
        (("m5.large", *ALLOWED), "m5.large", None, "--instance", "m5.large has no GPU"),
        (("g9.large", *ALLOWED), "g9.large", 1.0, "--instance", "g9.large is not offered in us-east-1"),
        (("m5.large",), None, 1.0, "--instance", "m5.large has no GPU"),
        (("g4dn.2xlarge", *ALLOWED), None, None, "--price", "no price of g4dn.2xlarge in us-east-1"),
    ],
)
def test_a_type_that_cannot_be_is_refused(aws, prices, allowed, wanted, price, where, said):
    with pytest.raises(ResightError) as caught:
        choose_types(Aws(), allowed, wanted, price)
    assert caught.value.where == where and said in caught.value.message and caught.value.fix


def test_where_prices_cannot_be_had_the_option_for_them_is_named(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", "http://127.0.0.1:1")
    with pytest.raises(ResightError, match="prices cannot be asked for") as caught:
        choose_types(Aws(), ALLOWED, None, None)
    assert caught.value.where == "--price" and "--price USD" in caught.value.fix
