"""GET /v1/models: what is served."""

from fastapi import APIRouter

from bitnet_jit.server.answers import ModelCard, ModelList
from bitnet_jit.server.service import Service, ServiceOf
from bitnet_jit.server.texts import context_of

router = APIRouter()


@router.get("/v1/models")
async def list_models(service: ServiceOf) -> ModelList:
    """Return all models."""
    return ModelList(data=[card(service, model_id) for model_id in service.engine.models])


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(model_id: str, service: ServiceOf) -> ModelCard:
    """Return one model; 404 where there is none of that name."""
    service.engine.model(model_id)
    return card(service, model_id)


def card(service: Service, model_id: str) -> ModelCard:
    """Return what is told of a model."""
    return ModelCard(id=model_id, created=service.created, max_model_len=context_of(service, model_id))
