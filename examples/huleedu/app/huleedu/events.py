"""Decides how the platform's events are named, read and written. Pure."""

import datetime
import json
import uuid
from dataclasses import dataclass

# A topic is named as its one event type.
ESSAYS_REGISTERED = "huleedu.batch.essays.registered.v1"
INITIATE_SPELLCHECK = "huleedu.batch.spellcheck.initiate.command.v1"
SPELLCHECK_REQUESTED = "huleedu.essay.spellcheck.requested.v1"
SPELLCHECK_COMPLETED = "huleedu.essay.spellcheck.completed.v1"
ESSAYS_READY = "huleedu.els.batch.essays.ready.v1"
PHASE_OUTCOME = "huleedu.els.batch.phase.outcome.v1"
INITIATE_ASSESSMENT = "huleedu.batch.cj_assessment.initiate.command.v1"
ASSESSMENT_COMPLETED = "huleedu.cj_assessment.completed.v1"


@dataclass(frozen=True)
class Event:
    """An event as a handler gets it, with what the sidecar says of its delivery."""

    type: str
    data: dict
    correlation_id: str
    # The same at every attempt, and for every copy of the event.
    key: str
    # Above 1: the event may have had its effect already.
    attempt: int
    # Below `full`: the same.
    protection: str

    @classmethod
    def read(cls, headers, body: bytes) -> "Event":
        """Reads a request of the sidecar: the record's value is its body."""
        envelope = json.loads(body)
        return cls(
            type=envelope["event_type"],
            data=envelope["data"],
            correlation_id=envelope["correlation_id"],
            key=headers["idempotency-key"],
            attempt=int(headers["idempotency-attempt"]),
            protection=headers["idempotency-protection"],
        )

    @property
    def entity(self) -> str:
        """Id of the batch or essay that it is about."""
        return self.data["metadata"]["entity"]["entity_id"]


def metadata(entity_type: str, entity_id: str) -> dict:
    """The part of `data` that says what the event is about."""
    return {"entity": {"entity_type": entity_type, "entity_id": entity_id}}


def envelope(event_type: str, source: str, cause: Event, data: dict) -> bytes:
    """An event that follows from another.

    A handler that runs a second time publishes its events a second time. What they are told by must not differ then: `data`
    holds nothing that comes from the clock or from chance, and the envelope's id is made of what caused it.
    """
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return json.dumps(
        {
            "event_id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{cause.key} {event_type} {canonical}")),
            "event_type": event_type,
            "event_timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(),
            "source_service": source,
            "correlation_id": cause.correlation_id,
            "data": data,
        }
    ).encode()
