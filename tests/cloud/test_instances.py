import pytest

from resight.cloud.aws import Aws
from resight.cloud.instances import choose_types
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


def test_a_price_that_is_given_holds_for_all(aws, prices):
    types = choose_types(Aws(), ALLOWED, None, 2.5)
    assert aws.calls == ["ec2:DescribeInstanceTypes"] and prices.requests == []
    assert [(one.name, one.vcpus, one.memory, one.gpus, one.usd) for one in types] == [
        ("g4dn.xlarge", 4, 16384, 1, 2.5), ("g5.xlarge", 4, 16384, 1, 2.5), ("g5.12xlarge", 48, 196608, 4, 2.5)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("allowed", "wanted", "price", "where", "said"),
    [
        (ALLOWED, "g5.2xlarge", None, "--instance", "g5.2xlarge is not one of the stack's"),
        (("m5.large", *ALLOWED), "m5.large", None, "--instance", "m5.large has no GPU"),
        (("g9.large", *ALLOWED), "g9.large", 1.0, "--instance", "g9.large is not offered in us-east-1"),
        (("m5.large",), None, 1.0, "--instance", "m5.large has no GPU"),
        (("g5.2xlarge", *ALLOWED), None, None, "--price", "no price of g5.2xlarge"),  # of which the size is not told
        (("g4dn.2xlarge", *ALLOWED), None, None, "--price", "no price of g4dn.2xlarge in us-east-1"),
    ],
)
def test_a_type_that_cannot_be_is_refused(aws, prices, allowed, wanted, price, where, said):
    prices["m5.large"] = (0.096, {"vcpu": "2", "memory": "8 GiB"})
    prices["g5.2xlarge"] = (1.2, {"vcpu": "8"})
    with pytest.raises(ResightError) as caught:
        choose_types(Aws(), allowed, wanted, price)
    assert caught.value.where == where and said in caught.value.message and caught.value.fix


def test_where_prices_cannot_be_had_the_option_for_them_is_named(aws, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", "http://127.0.0.1:1")
    with pytest.raises(ResightError, match="prices cannot be asked for") as caught:
        choose_types(Aws(), ALLOWED, None, None)
    assert caught.value.where == "--price" and "--price USD" in caught.value.fix
