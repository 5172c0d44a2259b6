"""What a user decides about where a run is launched, checked before anything is printed or sent.

Secrets are named here, never held: no field has room for a secret's value, and no message repeats one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from packing.errors import UsageError

RESERVED_VARIABLES = ("WORKER_INDEX", "TF_CONFIG")
CACHE, TEMPORARY, SHARED_MEMORY = "/cache", "/tmp", "/dev/shm"  # noqa: S108 - volumes of the worker's own
"""What a worker may write to; everything else it sees is read-only."""
RESERVED_LABELS = "app.kubernetes.io/"
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")

_WORD = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL = r"[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?"
_CPU = re.compile(r"(?!0+(\.0*)?m?$)([0-9]+(\.[0-9]{1,3})?|[0-9]+m)")
_SIZE = re.compile(r"([1-9][0-9]*)(Ki|Mi|Gi|Ti|k|M|G|T)?")
_BYTES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][-._A-Za-z0-9/:]*(@sha256:[0-9a-f]{64})?")
_SECRET_KEY = re.compile(r"[-._A-Za-z0-9]{1,253}")
_PATH = re.compile(r"(?!/(dev|proc|sys)(/|$))(/(?!\.{1,2}(/|$))[-._A-Za-z0-9]+)+")
_SECRET_VARIABLE = re.compile(r"(^|_)(SECRET|PASSWORD|TOKEN|(ACCESS|API|PRIVATE)_KEY)(_|$)", re.IGNORECASE)
_URL_WITH_PASSWORD = re.compile(r"://[^/\s]*@")


@dataclass(frozen=True)
class Resources:
    """Of one worker, asked for and kept as limits; Kubernetes quantities, such as "8", "64Gi".

    `shared_memory` bounds /dev/shm, which counts as memory; `cache_size` bounds the local copies of shards, and a
    worker that exceeds it is evicted, so `--cache-bytes` belongs below it. `hugepages` are of 2 MiB; None: none.
    """

    cpu: str
    memory: str
    shared_memory: str
    cache_size: str
    hugepages: str | None = None

    def __post_init__(self) -> None:
        _check("cpu", self.cpu, _CPU, 'CPUs, such as "8" or "500m"')
        for name in ("memory", "shared_memory", "cache_size"):
            quantity_bytes(name, getattr(self, name))
        if self.hugepages is not None and quantity_bytes("hugepages", self.hugepages) % 2**21:
            raise UsageError(f"hugepages: expected a multiple of 2Mi, got {self.hugepages!r}")


@dataclass(frozen=True)
class Toleration:
    """Of a node's taint: of any value if `value` is None, of any effect if `effect` is None."""

    key: str
    value: str | None = None
    effect: str | None = None

    def __post_init__(self) -> None:
        check_label("toleration", self.key, self.value or "")
        if self.effect not in (None, *EFFECTS):
            raise UsageError(f"toleration {self.key}: expected an effect of {', '.join(EFFECTS)}, got {self.effect!r}")


@dataclass(frozen=True)
class SecretVariable:
    """The environment variable `name` has the value that the Secret `secret` keeps under `key`."""

    name: str
    secret: str
    key: str

    def __post_init__(self) -> None:
        _check_variable(self.name)
        # What stands in the place of a reference may be the secret itself, so it is not repeated.
        if not _is_subdomain(self.secret) or not _SECRET_KEY.fullmatch(self.key):
            raise UsageError(f"secret of {self.name}: expected the name of a Secret and a key in it")


@dataclass(frozen=True)
class SecretVolume:
    """The keys of the Secret `secret` are files in the folder `path` of the worker."""

    secret: str
    path: str

    def __post_init__(self) -> None:
        if not _is_subdomain(self.secret):
            raise UsageError("secret volume: expected the name of a Secret")
        if not _PATH.fullmatch(self.path):
            raise UsageError(
                f"secret volume {self.secret}: expected an absolute path of letters, digits, -, _ and ., without . and "
                ".. as folders, not below /dev, /proc or /sys"
            )


@dataclass(frozen=True)
class LaunchConfig:
    """One run on a cluster: `workers` pods with `devices` devices each.

    A worker that fails takes its peers with it, which end as if stopped, or fail as well. So the run may start again
    until `restarts` x `workers` workers have failed; stops by SIGTERM and evictions are not counted. `start_timeout`:
    seconds after which a worker among several that does not answer its peers is killed. `grace_seconds`: from SIGTERM
    to SIGKILL, time for a step and a checkpoint. `ttl_seconds_after_finished` keeps a Job for its logs;
    `active_deadline_seconds` bounds all attempts together.
    """

    image: str
    resources: Resources
    name: str = "stowage-training"
    namespace: str = "default"
    workers: int = 1
    devices: int = 1
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priority_class: str | None = None
    service_account: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_variables: tuple[SecretVariable, ...] = ()
    secret_volumes: tuple[SecretVolume, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    user_id: int = 50000
    restarts: int = 3
    start_timeout: int = 600
    grace_seconds: int = 300
    ttl_seconds_after_finished: int = 24 * 3600
    active_deadline_seconds: int = 7 * 24 * 3600

    def __post_init__(self) -> None:
        _check("image", self.image, _IMAGE, "an image such as registry/name:tag")
        for name, low in _LEAST.items():
            if not low <= getattr(self, name) < 2**31:
                raise UsageError(f"{name}: expected an integer from {low} below 2^31, got {getattr(self, name)!r}")
        if self.restarts * self.workers >= 2**31:
            raise UsageError(f"restarts: expected restarts x workers below 2^31, got {self.restarts} x {self.workers}")
        # A Service's name begins with a letter, and the last worker's host name, NAME-INDEX, has 63 characters at most.
        longest = 62 - len(str(self.workers - 1))
        if not re.fullmatch(f"(?=[a-z]){_WORD}", self.name) or len(self.name) > longest:
            raise UsageError(
                f"name: expected at most {longest} of a-z, 0-9 and -, a letter first, no - last, got {self.name!r}"
            )
        if not re.fullmatch(_WORD, self.namespace) or len(self.namespace) > 63:
            raise UsageError(f"namespace: expected at most 63 of a-z, 0-9 and -, got {self.namespace!r}")
        for name in ("priority_class", "service_account"):
            value = getattr(self, name)
            if value is not None and not _is_subdomain(value):
                raise UsageError(f"{name}: expected a name of a-z, 0-9, - and ., got {value!r}")
        for key, value in (*self.node_selector.items(), *self.labels.items()):
            check_label("label", key, value)
        if reserved := [key for key in self.labels if key.startswith(RESERVED_LABELS)]:
            raise UsageError(f"label {reserved[0]}: expected a key of your own, {RESERVED_LABELS} is set here")
        self._check_environment()

    def _check_environment(self) -> None:
        for name, value in self.environment.items():
            _check_variable(name)
            if _SECRET_VARIABLE.search(name):
                raise UsageError(f"variable {name}: looks like a secret; expected a reference to a key of a Secret")
            check_no_password(f"variable {name}", value)
        _check_distinct("variable", [*self.environment, *(variable.name for variable in self.secret_variables)])
        _check_distinct("path", [CACHE, TEMPORARY, SHARED_MEMORY, *(volume.path for volume in self.secret_volumes)])


_LEAST = {
    "workers": 1,
    "devices": 1,
    "user_id": 1,
    "restarts": 0,
    "start_timeout": 10,
    "grace_seconds": 1,
    "ttl_seconds_after_finished": 0,
    "active_deadline_seconds": 1,
}


def quantity_bytes(name: str, quantity: str) -> int:
    """The bytes that a quantity such as "64Gi" means; raises UsageError calling it `name`."""
    _check(name, quantity, _SIZE, 'bytes, such as "64Gi"')
    digits, unit = re.findall(r"[0-9]+|[A-Za-z]+|$", quantity)[:2]
    return int(digits) * _BYTES.get(unit, 1)


def check_label(what: str, key: str, value: str) -> None:
    """Raise UsageError unless `key` and `value` are a label's: [PREFIX/]NAME, and at most 63 characters."""
    prefix, _, name = key.rpartition("/")
    if not re.fullmatch(f"(?=.{{1,63}}$){_LABEL}", name) or ("/" in key and not _is_subdomain(prefix)):
        raise UsageError(f"{what}: expected a key such as example.org/name, got {key!r}")
    if not re.fullmatch(f"(?=.{{0,63}}$)({_LABEL})?", value):
        raise UsageError(f"{what} {key}: expected at most 63 of A-Z, a-z, 0-9, -, _ and ., got {value!r}")


def check_no_password(what: str, text: str) -> None:
    """Raise UsageError, without repeating it, if `text` has a URL with a user and perhaps a password."""
    if _URL_WITH_PASSWORD.search(text):
        raise UsageError(f"{what}: has a URL with a user in it; expected secrets as references to keys of Secrets")


def _check(name: str, value: str, pattern: re.Pattern[str], expected: str) -> None:
    if not pattern.fullmatch(value):
        raise UsageError(f"{name}: expected {expected}, got {value!r}")


def _check_variable(name: str) -> None:
    _check("variable", name, _VARIABLE, "a name of letters, digits and _")
    if name in RESERVED_VARIABLES:
        raise UsageError(f"variable {name}: is set for each worker; expected another name")


def _check_distinct(what: str, names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UsageError(f"{what} {name}: expected once, got it twice")
        seen.add(name)


def _is_subdomain(name: str) -> bool:
    """Whether `name` is a subdomain of RFC 1123, as the names of most objects are."""
    return len(name) < 254 and re.fullmatch(rf"{_WORD}(\.{_WORD})*", name) is not None
