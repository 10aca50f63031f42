"""Instance types: what they have, what they cost, and what a job may ask of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import ResightError, counted, listed, nearest
from .aws import Aws, AwsError

USABLE = 0.9  # of an instance's memory; the system and the ECS agent keep the rest
SHARED = 0.5  # of a job's memory, for /dev/shm: loader workers hand batches over in it


@dataclass(frozen=True)
class InstanceType:
    """What a type has. ``memory`` is in MiB, ``usd`` per hour on demand (Linux, shared tenancy), None if not known."""

    name: str
    vcpus: int
    memory: int
    gpus: int
    usd: float | None = None

    @property
    def job_memory(self) -> int:
        """MiB that a job can have."""
        return int(self.memory * USABLE)

    @property
    def shared_memory(self) -> int:
        """MiB of that for ``/dev/shm``."""
        return int(self.job_memory * SHARED)

    def fits(self, job: InstanceType) -> bool:
        """Whether a job made for the type ``job`` can be placed on this one."""
        return self.gpus >= job.gpus and self.vcpus >= job.vcpus and self.memory >= job.memory

    def asks(self) -> str:
        """What a job made for it asks for."""
        return f"{counted(self.gpus, 'GPU')}, {self.vcpus} vCPUs, {self.job_memory / 1024:.1f} GiB"

    def text(self) -> str:
        return f"{self.name} ({counted(self.gpus, 'GPU')}, ${self.usd:.3f}/h)"


def choose_types(aws: Aws, allowed: Sequence[str], wanted: str | None, price: float | None) -> list[InstanceType]:
    """The types that a job made for ``wanted`` may run on, that one first, then by price.

    Args:
        allowed: the types of the stack's compute environments.
        wanted: None for the cheapest.
        price: USD per hour, for every type; None asks AWS.

    Raises:
        ResightError: ``wanted`` is not allowed, not offered in the region, has no GPU, or a price is not known.
    """
    if wanted and wanted not in allowed:
        fix = f"{nearest(wanted, allowed)} The stack's parameter InstanceTypes says which.".strip()
        raise ResightError(f"{wanted} is not one of the stack's: {listed(allowed)}", where="--instance", fix=fix)
    priced = _priced(aws, allowed) if price is None else {}
    found = list(priced.values())
    if priced.keys() != set(allowed) or not all(one.vcpus for one in found):  # what the price list does not know
        found = [
            replace(one, usd=priced[one.name].usd if one.name in priced else price) for one in _offered(aws, allowed)
        ]
    usable = {one.name: one for one in found if one.gpus}
    if lacking := [name for name in ([wanted] if wanted else allowed) if name not in usable]:
        why = "has no GPU" if lacking[0] in {one.name for one in found} else f"is not offered in {aws.region}"
        if wanted or not usable:
            fix = f"Usable here: {listed(sorted(usable))}." if usable else "Choose another --region."
            raise ResightError(f"{lacking[0]} {why}", where="--instance", fix=fix)
    by_price = sorted(usable.values(), key=lambda one: (one.usd is None, one.usd, one.memory, one.name))
    job = usable[wanted] if wanted else by_price[0]
    fitting = [job, *(one for one in by_price if one.fits(job) and one != job)]
    if unknown := [one.name for one in fitting if one.usd is None]:
        fix = "Give that of the dearest yourself, in USD per hour: --price USD"
        raise ResightError(f"AWS tells no price of {listed(unknown)} in {aws.region}", where="--price", fix=fix)
    return fitting


def _offered(aws: Aws, names: Sequence[str]) -> list[InstanceType]:
    """Those of the types that the region has."""
    # A filter leaves out what is not offered, where to ask for it by its name would be an error.
    filters = [{"Name": "instance-type", "Values": list(names)}]
    return [
        InstanceType(
            one["InstanceType"],
            one["VCpuInfo"]["DefaultVCpus"],
            one["MemoryInfo"]["SizeInMiB"],
            sum(gpu["Count"] for gpu in (one.get("GpuInfo") or {}).get("Gpus", ())),
        )
        for one in aws.pages("ec2", "describe_instance_types", "InstanceTypes", Filters=filters)
    ]


def _priced(aws: Aws, names: Sequence[str]) -> dict[str, InstanceType]:
    """The types that the price list knows; one of which it does not say what it has has no vCPUs."""
    wanted = {
        "regionCode": aws.region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    filters.append({"Type": "ANY_OF", "Field": "instanceType", "Value": ",".join(names)})
    found: dict[str, InstanceType] = {}
    try:
        # Not for a minute, where a network does not let it through: there is --price. One page holds a hundred types.
        products = aws.call("pricing", "get_products", 4, ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
    except AwsError as error:
        if error.where == "AWS":  # the credentials; nothing else would go better
            raise
        fix = f"{error.fix} Or give the price yourself, in USD per hour: --price USD".strip()
        raise ResightError(f"the prices cannot be asked for: {error.message}", where="--price", fix=fix) from error
    for text in products:
        with suppress(KeyError, ValueError, TypeError, AttributeError):
            product = json.loads(text)
            told = product["product"]["attributes"]
            terms = product["terms"]["OnDemand"].values()
            usd = max(
                float(price["pricePerUnit"]["USD"]) for term in terms for price in term["priceDimensions"].values()
            )
            shape = (0, 0, 0)
            with suppress(KeyError, ValueError):
                gibibytes = float(told["memory"].removesuffix(" GiB").replace(",", ""))
                shape = (int(told["vcpu"]), int(gibibytes * 1024), int(told["gpu"]))
            if usd > 0:
                found[told["instanceType"]] = InstanceType(told["instanceType"], *shape, usd)
    return found
