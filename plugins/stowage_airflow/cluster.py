"""One namespace of a cluster as a launched run needs it, through the CNCF provider's hook and client.

Not through the provider's Job operator: that starts another Job on a retry and fetches logs only at the end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any

import aiohttp
from airflow.providers.cncf.kubernetes.hooks.kubernetes import AsyncKubernetesHook
from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowNotFoundException
from kubernetes_asyncio.client import ApiClient, ApiException, BatchV1Api, CoreV1Api
from kubernetes_asyncio.client.rest import RESTResponse
from kubernetes_asyncio.config import ConfigException

from stowage_airflow.connections import KUBERNETES_CONNECTION
from stowage_airflow.observe import one_line
from training.launchers.kubernetes import CONTAINER, Manifest

_PASSING = (408, 409, 429)
"""Refusals that a later try may not meet; others below 500 are for good."""
_LONGEST_MESSAGE = 1000


class RefusedError(AirflowFailException):
    """The API server does not do what it is asked, and will not do it next time."""


@asynccontextmanager
async def open_cluster(namespace: str) -> AsyncIterator[Cluster]:
    """The cluster of `kubernetes_default`; raises AirflowException, or RefusedError where a retry cannot help."""
    async with AsyncExitStack() as stack:
        with _api_errors(f"connection {KUBERNETES_CONNECTION}"):
            connection = await get_async_connection(KUBERNETES_CONNECTION)
            extras = await get_async_extra_dejson(connection)
            hook = AsyncKubernetesHook(conn_id=KUBERNETES_CONNECTION, connection_extras=extras)
            client = await stack.enter_async_context(hook.get_conn())
        yield Cluster(client, namespace)


class Cluster:
    """Jobs, pods, logs and events of one namespace; manifests in, and the objects as manifests out."""

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._client, self._batch = client, BatchV1Api(client)
        # Its types do not know what it gives without decoding.
        self._core: Any = CoreV1Api(client)

    async def create_job(self, job: Manifest) -> Manifest:
        """The Job as it was created."""
        return await self._ask(f"job {job['metadata']['name']}", self._batch.create_namespaced_job, body=job)

    async def create_service(self, service: Manifest) -> Manifest | None:
        """The Service as it was created; None if there is one of that name."""
        name = service["metadata"]["name"]
        return await self._unless((409,), f"service {name}", self._core.create_namespaced_service, body=service)

    async def job(self, name: str) -> Manifest | None:
        """None if there is none."""
        return await self._unless((404,), f"job {name}", self._batch.read_namespaced_job, name)

    async def service(self, name: str) -> Manifest | None:
        """None if there is none."""
        return await self._unless((404,), f"service {name}", self._core.read_namespaced_service, name)

    async def delete_job(self, name: str) -> None:
        """Have its pods ended, with SIGTERM and their grace, then it and what it owns; nothing if there is none."""
        call = self._batch.delete_namespaced_job
        await self._unless((404,), f"job {name}", call, name, propagation_policy="Foreground")

    async def delete_service(self, name: str) -> None:
        """Nothing if there is none."""
        await self._unless((404,), f"service {name}", self._core.delete_namespaced_service, name)

    async def pods(self, job: Manifest) -> list[Manifest]:
        """The pods of a Job that was created, those that have ended too."""
        labels = f"app.kubernetes.io/instance={job['metadata']['name']}"
        found = await self._ask("pods", self._core.list_namespaced_pod, label_selector=labels)
        uid = job["metadata"]["uid"]
        return [pod for pod in found["items"] if uid in _owners(pod)]

    async def events(self, uids: set[str]) -> list[Manifest]:
        """What has happened to the objects of these uids, as far as the API server still knows it."""
        found = await self._ask("events", self._core.list_namespaced_event)
        return [event for event in found["items"] if event["involvedObject"].get("uid") in uids]

    async def log(self, pod: str, **limits: int) -> list[str]:
        """Lines of `TIMESTAMP TEXT`, within `since_seconds` or `tail_lines`; none if the pod or its log is gone."""

        async def read(**options: Any) -> str:
            # Not decoded by the client, which fails on what is no UTF-8, but then does not look at the status either.
            answer = await self._core.read_namespaced_pod_log(pod, **options, **limits, _preload_content=False)
            data = await answer.read()
            if not answer.ok:
                refused: Any = RESTResponse(answer, data)
                raise ApiException(http_resp=refused)
            return data.decode(errors="replace")

        # A container that has ended with its node, or never began, has no log to read: a bad request.
        options = {"container": CONTAINER, "timestamps": True}
        text = await self._unless((400, 404), f"log of pod {pod}", read, **options)
        return (text or "").split("\n")[:-1]

    async def _ask(self, what: str, call: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
        with _api_errors(f"namespace {self.namespace}, {what}"):
            return self._client.sanitize_for_serialization(await call(*arguments, namespace=self.namespace, **options))

    async def _unless(
        self, statuses: Collection[int], what: str, call: Callable[..., Awaitable[Any]], *args: Any, **kw: Any
    ) -> Any:
        """None if the API server answers with one of `statuses`."""

        async def guarded(**options: Any) -> Any:
            try:
                return await call(*args, **options)
            except ApiException as exc:
                if exc.status not in statuses:
                    raise
                return None

        return await self._ask(what, guarded, **kw)


def _owners(manifest: Manifest) -> list[str]:
    return [owner["uid"] for owner in manifest["metadata"].get("ownerReferences") or []]


def is_owned(manifest: Manifest, job: Manifest) -> bool:
    """Whether Kubernetes removes it together with `job`."""
    return job["metadata"]["uid"] in _owners(manifest)


@contextmanager
def _api_errors(what: str) -> Iterator[None]:
    try:
        yield
    except ApiException as exc:
        final = 400 <= exc.status < 500 and exc.status not in _PASSING
        kind = RefusedError if final else AirflowException
        raise kind(f"{what}: {_message(exc)} (status {exc.status})") from exc
    except (ConfigException, AirflowNotFoundException) as exc:
        raise RefusedError(f"{what}: {one_line(str(exc))}; set it in Airflow") from exc
    except ValueError as exc:
        raise AirflowException(f"{what}: cannot be understood ({one_line(str(exc))})") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise AirflowException(
            f"{what}: the API server is unreachable ({type(exc).__name__}: {one_line(str(exc))})"
        ) from exc


def _message(exc: ApiException) -> str:
    """The API server's own words; what stands between may answer with a page instead."""
    body = exc.body.decode(errors="replace") if isinstance(exc.body, bytes) else exc.body or ""
    try:
        said = json.loads(body)["message"]
    except (ValueError, KeyError, TypeError):
        said = body
    return one_line(said or exc.reason or "no reason given")[:_LONGEST_MESSAGE]
