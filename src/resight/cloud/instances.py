"""Instance types: what they have, what they cost, and on which of them a job may run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ..errors import ResightError, counted, listed, nearest
from .aws import Aws, AwsError

USABLE = 0.9  # of an instance's memory; the system and the ECS agent keep the rest
_LINUX = {"operatingSystem": "Linux", "preInstalledSw": "NA", "tenancy": "Shared", "capacitystatus": "Used"}


@dataclass(frozen=True)
class InstanceType:
    """What a type has. ``memory`` is in MiB, ``usd`` per hour on demand (Linux, shared tenancy)."""

    name: str
    vcpus: int
    memory: int
    gpus: int
    usd: float

    @property
    def job_memory(self) -> int:
        """MiB that a job can have."""
        return int(self.memory * USABLE)

    def text(self) -> str:
        return f"{self.name} ({counted(self.gpus, 'GPU')}, ${self.usd:.3f}/h)"


def choose_types(aws: Aws, allowed: Sequence[str], wanted: str | None, price: float | None) -> list[InstanceType]:
    """Those of the stack's types, ``allowed``, that a job made for ``wanted`` (None: the cheapest) may run on, that one
    first, then by price; ``price`` is the USD per hour of every type, None asks AWS. Raises ResightError: ``wanted`` is
    not allowed, not offered in the region, has no GPU, or a price is not known."""
    if wanted and wanted not in allowed:
        fix = f"{nearest(wanted, allowed)} The stack's parameter InstanceTypes says which.".strip()
        raise ResightError(f"{wanted} is not one of the stack's: {listed(allowed)}", where="--instance", fix=fix)
    found = _listed_types(aws, allowed) if price is None else offered_types(aws, allowed, price)
    usable = sorted((one for one in found.values() if one.gpus), key=lambda one: (one.usd, one.memory, one.name))
    job = found.get(wanted) if wanted else next(iter(usable), None)
    if job is None or not job.gpus:
        why = "has no GPU" if (wanted or allowed[0]) in found else f"is not offered in {aws.region}"
        fix = f"Usable here: {listed(one.name for one in usable)}." if usable else "Choose another --region."
        raise ResightError(f"{wanted or listed(allowed)} {why}", where="--instance", fix=fix)
    fit = [one for one in usable if one.gpus >= job.gpus and one.vcpus >= job.vcpus and one.memory >= job.job_memory]
    return [job, *(one for one in fit if one != job)]


def _listed_types(aws: Aws, names: Sequence[str]) -> dict[str, InstanceType]:
    """The types as AWS's price list has them, which also says what an instance has. A job could be placed on one that
    it lacks, at an unknown price: that is refused."""
    matched = _LINUX | {"regionCode": aws.region}
    filters = [{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in matched.items()]
    filters.append({"Type": "ANY_OF", "Field": "instanceType", "Value": ",".join(names)})
    own = "Give the price of the dearest yourself, in USD per hour: --price USD"
    try:
        # Not for a minute, where a network does not let it through. One page holds a hundred types.
        products = aws.call("pricing", "get_products", 4, ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
    except AwsError as error:
        fix = f"{error.fix} {own}".strip()
        raise ResightError(f"the prices cannot be asked for: {error.message}", where="--price", fix=fix) from error
    found = {}
    for product in map(json.loads, products):
        with suppress(KeyError, ValueError):  # without a price in dollars, or sizes that are whole numbers: not known
            has, terms = product["product"]["attributes"], product["terms"]["OnDemand"].values()
            usd = max(float(one["pricePerUnit"]["USD"]) for term in terms for one in term["priceDimensions"].values())
            memory = int(float(has["memory"].removesuffix(" GiB").replace(",", "")) * 1024)
            kind = InstanceType(has["instanceType"], int(has["vcpu"]), memory, int(has.get("gpu", 0)), usd)
            if usd > 0:
                found[kind.name] = kind
    if unknown := [name for name in names if name not in found]:
        raise ResightError(f"AWS lists no price of {listed(unknown)} in {aws.region}", where="--price", fix=own)
    return found


def offered_types(aws: Aws, names: Sequence[str], price: float) -> dict[str, InstanceType]:
    """Those of the types that the region has, by name, each at ``price`` USD per hour. Raises AwsError."""
    # A filter leaves out what is not offered, where to ask for it by its name would be an error.
    filters = [{"Name": "instance-type", "Values": list(names)}]
    found = {}
    for one in aws.pages("ec2", "describe_instance_types", "InstanceTypes", Filters=filters):
        gpus = sum(gpu["Count"] for gpu in (one.get("GpuInfo") or {}).get("Gpus", ()))
        vcpus, memory = one["VCpuInfo"]["DefaultVCpus"], one["MemoryInfo"]["SizeInMiB"]
        found[one["InstanceType"]] = InstanceType(one["InstanceType"], vcpus, memory, gpus, price)
    return found
