"""A cluster without nodes: kmock's API server, and what Kubernetes' controllers do with Jobs, pods and what they own.

Time passes when somebody asks for pods: each such request plays one step of what a test has planned.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import aiohttp.web
import jsonschema
import kmock

from tests.launchers.kubelet import check_schemas

Manifest = dict[str, Any]
Step = Callable[["FakeCluster"], None]

NAMESPACE = "training"
JOBS, PODS, SERVICES, EVENTS = (
    kmock.resource(name) for name in ("batch/v1/jobs", "v1/pods", "v1/services", "v1/events")
)
INDEX = "batch.kubernetes.io/job-completion-index"


class FakeCluster(kmock.KubernetesEmulator):
    """Jobs get pods, pods end as planned, and failures do what the Job's policy says.

    `play` are the steps to come, `refusals` answers by (verb, resource), `logs` lines by pod, `quota` what the
    controller says instead of making pods, `created` all manifests that were ever accepted, `deletion_polls` how often
    one asks for a deleted Job before it is gone.
    """

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self.play: list[Step] = []
        self.refusals: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self.logs: dict[str, list[str]] = {}
        self.quota = ""
        self.created: list[Manifest] = []
        self.deletion_polls = 2
        self._numbers = itertools.count(1)
        for resource in (JOBS, PODS, SERVICES, EVENTS):
            self.resources[resource] = {"namespaced": True}

    # What tests plan.

    def run(self) -> None:
        """All pods that wait are placed and start."""
        for pod in self.pods(phase="Pending"):
            self._set(
                pod,
                phase="Running",
                conditions=[],
                containerStatuses=[_status(running={"startedAt": "2026-01-01T00:00:00Z"})],
            )

    def inject(self, index: int) -> None:
        """Worker `index` gets a container beside its own, as a service mesh adds one to all pods."""
        pod = self._pod(index)
        proxy = {**_status(terminated={"exitCode": 0, "reason": "Completed"}), "name": "a-proxy"}
        self._set(pod, containerStatuses=[proxy, *pod["status"]["containerStatuses"]])

    def say(self, index: int, *lines: str) -> None:
        """Worker `index` prints lines; a surrogate stands for a byte that is no UTF-8."""
        pod = self._pod(index)
        self.logs[pod["metadata"]["name"]] += [f"2026-01-01T00:{next(self._numbers):04}.5Z {line}" for line in lines]

    def end(self, index: int, status: int = 0) -> None:
        """Worker `index` exits."""
        ended = _status(terminated={"exitCode": status, "reason": "Error" if status else "Completed"})
        pod = self._pod(index)
        self._set(pod, phase="Failed" if status else "Succeeded", containerStatuses=[ended])
        self._settle(pod, self._action(status) if status else "")

    def end_slowly(self, index: int, status: int) -> None:
        """Worker `index` exits, which fails the Job, and the others take their grace."""
        ended = _status(terminated={"exitCode": status, "reason": "Error"})
        self._set(self._pod(index), phase="Failed", containerStatuses=[ended])
        for pod in self.pods(phase="Running"):
            self._patch(PODS, pod, {"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}})
        decided = {
            "type": "FailureTarget",
            "status": "True",
            "reason": "PodFailurePolicy",
            "message": "Container failed",
        }
        self._patch(JOBS, self.job(), {"status": {"conditions": [decided]}})

    def fail(self, reason: str, message: str) -> None:
        """The Job is over."""
        self._finish("Failed", reason, message)

    def evict(self, index: int) -> None:
        """Worker `index` loses its node."""
        pod = self._pod(index)
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
        message = "The node was low on resource: memory."
        unknown = _status(terminated={"exitCode": 137, "reason": "ContainerStatusUnknown"})
        self._set(
            pod, phase="Failed", reason="Evicted", message=message, conditions=[condition], containerStatuses=[unknown]
        )
        self._settle(pod, "Ignore")

    def lose(self, index: int) -> None:
        """Pod and node of worker `index` are gone, and nobody knows why."""
        pod = self._pod(index)
        self._remove(PODS, pod)
        self._make_pod(self.job(), index)

    def complain(self, index: int, **status: Any) -> None:
        """Worker `index` waits, with this status."""
        self._set(self._pod(index), **status)

    def strand(self, index: int) -> None:
        """Worker `index` is on a node that does not answer: its pod is deleted, and stays."""
        self._patch(PODS, self._pod(index), {"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z"}})

    def tell(self, index: int, kind: str, reason: str, message: str) -> None:
        """Something happens to worker `index`."""
        self._tell(self._pod(index), kind, reason, message)

    def delete_by_hand(self) -> None:
        """Somebody deletes the Job and all that is its own."""
        self._collect(self.job())

    def settle(self) -> None:
        """What was deleted is gone in the end."""
        for job in self.all(JOBS):
            if "deletionTimestamp" in job["metadata"]:
                self._collect(job)

    def forget(self, resource: kmock.resource) -> None:
        """All of a kind vanish, and nothing else does."""
        for found in self.all(resource):
            self._remove(resource, found)

    # What tests ask.

    def job(self) -> Manifest:
        (only,) = self.all(JOBS)
        return only

    def pods(self, phase: str = "") -> list[Manifest]:
        return [pod for pod in self.all(PODS) if phase in ("", pod["status"]["phase"])]

    def all(self, resource: kmock.resource) -> list[Manifest]:
        return [found.raw for (kind, _, _), found in self.objects.items() if kind == resource and not found.deleted]

    def check_nothing_runs(self) -> None:
        """What is left has ended, and Kubernetes removes it in time."""
        for job in self.all(JOBS):
            assert _ended(job), job
            assert "ttlSecondsAfterFinished" in job["spec"]
        assert not [pod for pod in self.pods() if pod["status"]["phase"] in ("Pending", "Running")]
        owners = {job["metadata"]["uid"] for job in self.all(JOBS)}
        for owned in (*self.all(PODS), *self.all(SERVICES)):
            assert {owner["uid"] for owner in owned["metadata"]["ownerReferences"]} <= owners

    # What the API server does.

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        if request.resource is None or request.action is None:
            return await super()._handle(request)
        verb, kind = request.action.name.lower(), str(request.resource.plural)
        if page := self._refuse(verb, kind):
            return page
        if request.subresource == "log":
            return self._log(str(request.name), request.params)
        if verb == "create":
            self._admit(request)
        elif verb == "delete" and request.resource == JOBS:
            return self._delete_job(request)
        elif verb == "fetch" and request.resource == JOBS:
            self._pass_deletions()
        elif verb == "list" and request.resource == PODS and self.play:
            self.play.pop(0)(self)
        response = await super()._handle(request)
        if verb == "create" and request.resource == JOBS:
            self._start(request.data)
        return response

    def _refuse(self, verb: str, kind: str) -> aiohttp.web.Response | None:
        """Answer in the API server's form, or with the page of a proxy in between; status 0 lets a request pass."""
        answers = self.refusals.get((verb, kind), [(0, "")])
        status, message = answers.pop(0) if len(answers) > 1 else answers[0]
        if message.startswith("<"):
            return aiohttp.web.Response(status=status, text=message, content_type="text/html")
        if status:
            raise kmock.KubernetesError(status=status, reason="Refused", message=message)
        return None

    def _admit(self, request: kmock.Request) -> None:
        if request.namespace != NAMESPACE:
            raise kmock.KubernetesError(404, "NotFound", f'namespaces "{request.namespace}" not found')
        try:
            check_schemas(request.data)
        except jsonschema.ValidationError as exc:
            raise kmock.KubernetesError(422, "Invalid", f"{request.data['kind']} is invalid: {exc.message}") from exc
        key = (request.resource, request.namespace, request.data["metadata"]["name"])
        if key not in self.objects or self.objects[key].deleted:
            self.created.append({**request.data})
            request.data["metadata"] = {**request.data["metadata"], **self._identity()}

    def _identity(self) -> dict[str, str]:
        number = next(self._numbers)
        return {"uid": f"uid-{number}", "creationTimestamp": f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z"}

    def _log(self, pod: str, params: Mapping[str, str]) -> aiohttp.web.Response:
        if pod not in self.logs:
            raise kmock.KubernetesError(404, "NotFound", f'pods "{pod}" not found')
        statuses = self.objects[PODS, NAMESPACE, pod].raw["status"]["containerStatuses"]
        (training,) = (status for status in statuses if status["name"] == "training")
        if len(statuses) > 1 and params.get("container") != "training":
            raise kmock.KubernetesError(400, "BadRequest", f"a container name must be specified for pod {pod}")
        if training["state"].get("terminated", {}).get("reason") == "ContainerStatusUnknown":
            raise kmock.KubernetesError(400, "BadRequest", f'container "training" in pod "{pod}" is terminated')
        lines = self.logs[pod][-int(params.get("tailLines", 10**9)) :]
        return aiohttp.web.Response(body="".join(line + "\n" for line in lines).encode(errors="surrogateescape"))

    def _delete_job(self, request: kmock.Request) -> aiohttp.web.Response:
        found = [job for job in self.all(JOBS) if job["metadata"]["name"] == request.name]
        if not found:
            raise kmock.KubernetesError(404, "NotFound", f'jobs.batch "{request.name}" not found')
        # Without it, the API server leaves the pods of a Job alone.
        if request.params.get("propagationPolicy") == "Foreground":
            self._patch(JOBS, found[0], {"metadata": {"deletionTimestamp": "2026-01-02T00:00:00Z", "polls": 0}})
        else:
            self._remove(JOBS, found[0])
        return aiohttp.web.json_response(found[0])

    def _pass_deletions(self) -> None:
        for job in self.all(JOBS):
            if "deletionTimestamp" in job["metadata"]:
                polls = job["metadata"].pop("polls") + 1
                self._patch(JOBS, job, {"metadata": {"polls": polls}})
                if polls >= self.deletion_polls:
                    self._collect(job)

    # What the controllers do.

    def _start(self, job: Manifest) -> None:
        if self.quota:
            self._tell(job, "Warning", "FailedCreate", self.quota)
            return
        for index in range(job["spec"]["completions"]):
            self._make_pod(job, index)

    def _tell(self, about: Manifest, kind: str, reason: str, message: str) -> None:
        """Every other event as the newer components write them: with microseconds, and not as the last of many."""
        number = next(self._numbers)
        seconds = f"2026-01-01T00:{number // 60:02}:{number % 60:02}"
        time = {"eventTime": f"{seconds}.000001Z"} if number % 2 else {"lastTimestamp": f"{seconds}Z"}
        name = f"event-{number}"
        self.objects[EVENTS, NAMESPACE, name] = {
            "metadata": {"name": name, "namespace": NAMESPACE},
            "involvedObject": {"uid": about["metadata"]["uid"], "name": about["metadata"]["name"]},
            "type": kind,
            "reason": reason,
            "message": message,
            **time,
        }

    def _make_pod(self, job: Manifest, index: int) -> None:
        identity = self._identity()
        name = f"{job['metadata']['name']}-{index}-{identity['uid'][4:]}"
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
        }
        template = job["spec"]["template"]
        self.objects[PODS, NAMESPACE, name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template["metadata"],
                **identity,
                "name": name,
                "namespace": NAMESPACE,
                "annotations": {INDEX: str(index)},
                "ownerReferences": [owner],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        self.logs[name] = []

    def _action(self, status: int) -> str:
        rules = self.job()["spec"]["podFailurePolicy"]["rules"]
        return next((rule["action"] for rule in rules if status in rule.get("onExitCodes", {}).get("values", [])), "")

    def _settle(self, pod: Manifest, action: str) -> None:
        job = self.job()
        failed = len(self.pods(phase="Failed"))
        name, index = pod["metadata"]["name"], int(pod["metadata"]["annotations"][INDEX])
        if len(self.pods(phase="Succeeded")) == job["spec"]["completions"]:
            self._finish("Complete", "CompletionsReached", "Reached expected number of succeeded pods")
        elif action == "FailJob":
            self._finish("Failed", "PodFailurePolicy", f"Container training for pod {NAMESPACE}/{name} failed")
        elif self.objects[PODS, NAMESPACE, name].raw["status"]["phase"] == "Failed":
            if action != "Ignore" and failed > job["spec"]["backoffLimit"]:
                self._finish("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            else:
                self._make_pod(job, index)

    def _finish(self, kind: str, reason: str, message: str) -> None:
        """Pods that still run are ended, as no one waits for them any more."""
        condition = {"type": kind, "status": "True", "reason": reason, "message": message}
        self._patch(JOBS, self.job(), {"status": {"conditions": [condition]}})
        for pod in self.pods():
            if pod["status"]["phase"] in ("Pending", "Running"):
                self._remove(PODS, pod)

    def _collect(self, job: Manifest) -> None:
        for resource in (PODS, SERVICES):
            for found in self.all(resource):
                if job["metadata"]["uid"] in [owner["uid"] for owner in found["metadata"].get("ownerReferences", [])]:
                    self._remove(resource, found)
        self._remove(JOBS, job)

    def _pod(self, index: int) -> Manifest:
        """The one that counts: of those with this index, the last."""
        return [pod for pod in self.pods() if pod["metadata"]["annotations"][INDEX] == str(index)][-1]

    def _set(self, pod: Manifest, **status: Any) -> None:
        self._patch(PODS, pod, {"status": status})

    def _patch(self, resource: kmock.resource, manifest: Manifest, changes: Manifest) -> None:
        self.objects[resource, NAMESPACE, manifest["metadata"]["name"]].patch(changes)

    def _remove(self, resource: kmock.resource, manifest: Manifest) -> None:
        self.objects[resource, NAMESPACE, manifest["metadata"]["name"]].delete()
        if resource == PODS:
            self.logs.pop(manifest["metadata"]["name"])


def _status(**state: Any) -> Manifest:
    return {"name": "training", "image": "x", "imageID": "", "ready": True, "restartCount": 0, "state": state}


def _ended(job: Manifest) -> bool:
    return any(condition["status"] == "True" for condition in job.get("status", {}).get("conditions", []))


@contextmanager
def running_cluster() -> Iterator[tuple[FakeCluster, str]]:
    """A cluster and the URL of its API server, which serves from a thread of its own."""
    loop, up, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    cluster, urls = FakeCluster(), []

    async def serve() -> None:
        async with cluster, kmock.Server(cluster) as server:
            urls.append(str(server.url))
            up.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert up.wait(30)
        yield cluster, urls[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def connection(url: str, token: str) -> dict[str, Any]:
    """`kubernetes_default` for the cluster at `url`, with a token as its secret."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url.rstrip("/")}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    }
    return {"conn_type": "kubernetes", "extra": {"kube_config": config, "namespace": NAMESPACE}}
