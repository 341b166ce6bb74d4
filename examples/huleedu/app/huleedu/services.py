"""Decides what each of the four services does with its events. Each handler may run twice for one event."""

from .events import (
    ASSESSMENT_COMPLETED,
    ESSAYS_READY,
    ESSAYS_REGISTERED,
    INITIATE_ASSESSMENT,
    INITIATE_SPELLCHECK,
    PHASE_OUTCOME,
    SPELLCHECK_COMPLETED,
    SPELLCHECK_REQUESTED,
    Event,
    envelope,
    metadata,
)

# Essays that are compared with each other.
SET = 5
MISSPELLED = {"recieve": "receive", "teh": "the", "wich": "which"}


class Service:
    """One service: by event type, the handler as the decorator wrapped it."""

    name = ""

    def __init__(self, store, publisher):
        self.store = store
        self.publisher = publisher
        self.handlers = {}

    async def handle(self, event: Event) -> bool:
        """True: done. False: a business failure. It raises for a failure of the infrastructure."""
        return await self.handlers[event.type](event)

    async def publish(self, event_type: str, cause: Event, all_data: list) -> None:
        """Publishes one event for each `data`; those about one entity stay in order."""
        events = [
            (data["metadata"]["entity"]["entity_id"], envelope(event_type, self.name, cause, data)) for data in all_data
        ]
        await self.publisher.publish(event_type, events)


class BatchOrchestrator(Service):
    """Leads a batch from phase to phase."""

    name = "batch_orchestrator_service"

    def __init__(self, store, publisher):
        super().__init__(store, publisher)
        self.handlers = {
            ESSAYS_REGISTERED: self.start_spellcheck,
            ESSAYS_READY: self.start_assessment,
            PHASE_OUTCOME: self.note_outcome,
        }

    async def start_spellcheck(self, event: Event) -> bool:
        command = {"metadata": metadata("batch", event.entity), "essays": event.data["essays"]}
        await self.publish(INITIATE_SPELLCHECK, event, [command])
        return True

    async def start_assessment(self, event: Event) -> bool:
        essays = event.data["essays"]
        sets = [essays[start : start + SET] for start in range(0, len(essays), SET)]
        commands = [
            {"metadata": metadata("set", f"{event.entity}-{number}"), "batch_id": event.entity, "essays": essays}
            for number, essays in enumerate(sets)
        ]
        await self.publish(INITIATE_ASSESSMENT, event, commands)
        return True

    async def note_outcome(self, event: Event) -> bool:
        await self.store.phase(event.entity, event.data["phase"], event.data["status"])
        return True


class EssayLifecycle(Service):
    """Knows where each essay stands."""

    name = "essay_lifecycle_service"

    def __init__(self, store, publisher):
        super().__init__(store, publisher)
        self.handlers = {
            ESSAYS_REGISTERED: self.register,
            INITIATE_SPELLCHECK: self.request_spellchecks,
            SPELLCHECK_COMPLETED: self.note_spellcheck,
            ASSESSMENT_COMPLETED: self.note_assessment,
        }

    async def register(self, event: Event) -> bool:
        await self.store.expect(event.entity, len(event.data["essays"]))
        return True

    async def request_spellchecks(self, event: Event) -> bool:
        requests = [
            {"metadata": metadata("essay", essay["essay_id"]), "batch_id": event.entity, "text": essay["text"]}
            for essay in event.data["essays"]
        ]
        await self.publish(SPELLCHECK_REQUESTED, event, requests)
        return True

    async def note_spellcheck(self, event: Event) -> bool:
        batch = event.data["batch_id"]
        texts = await self.store.spellchecked(batch, event.entity, event.data["text"])
        if texts is not None:
            essays = [{"essay_id": essay, "text": text} for essay, text in sorted(texts.items())]
            await self.outcome(event, batch, "spellcheck")
            await self.publish(ESSAYS_READY, event, [{"metadata": metadata("batch", batch), "essays": essays}])
        return True

    async def note_assessment(self, event: Event) -> bool:
        batch = event.data["batch_id"]
        if await self.store.assessed(batch, [ranking["essay_id"] for ranking in event.data["rankings"]]):
            await self.outcome(event, batch, "cj_assessment")
        return True

    async def outcome(self, cause: Event, batch: str, phase: str) -> None:
        data = {"metadata": metadata("batch", batch), "phase": phase, "status": "COMPLETED"}
        await self.publish(PHASE_OUTCOME, cause, [data])


class SpellChecker(Service):
    """Corrects one essay."""

    name = "spell_checker_service"

    def __init__(self, store, publisher):
        super().__init__(store, publisher)
        self.handlers = {SPELLCHECK_REQUESTED: self.check}

    async def check(self, event: Event) -> bool:
        words = event.data["text"].split()
        if not words:
            # No retry will find a text here.
            return False
        corrected = [MISSPELLED.get(word, word) for word in words]
        data = {
            "metadata": event.data["metadata"],
            "batch_id": event.data["batch_id"],
            "text": " ".join(corrected),
            "corrections": sum(before != after for before, after in zip(words, corrected)),
        }
        await self.publish(SPELLCHECK_COMPLETED, event, [data])
        return True


class CJAssessment(Service):
    """Assesses the essays of a set by comparing each with each."""

    name = "cj_assessment_service"

    def __init__(self, store, publisher):
        super().__init__(store, publisher)
        self.handlers = {INITIATE_ASSESSMENT: self.assess}

    async def assess(self, event: Event) -> bool:
        words = {essay["essay_id"]: len(set(essay["text"].split())) for essay in event.data["essays"]}
        # How many of the others have no richer vocabulary.
        scores = {essay: sum(other <= mine for other in words.values()) for essay, mine in words.items()}
        await self.store.assess(event.key, scores)
        data = {
            "metadata": event.data["metadata"],
            "batch_id": event.data["batch_id"],
            "rankings": [{"essay_id": essay, "score": score} for essay, score in sorted(scores.items())],
        }
        await self.publish(ASSESSMENT_COMPLETED, event, [data])
        return True


ALL = {service.name: service for service in (BatchOrchestrator, EssayLifecycle, SpellChecker, CJAssessment)}
