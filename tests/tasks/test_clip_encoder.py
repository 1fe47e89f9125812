"""Facts about what an encoder says of its CLIP."""

from dataclasses import replace

from models.clip import ClipSpec
from tasks.clip_encoder import ClipFacts


def test_networks_that_differ_in_their_activation_alone_say_so():
    spec = ClipSpec.from_name("ViT-B-32")
    other = replace(spec, model_cfg=spec.model_cfg | {"quick_gelu": True})
    facts = [ClipFacts(one, "w", "fp32") for one in (spec, spec, other)]
    assert facts[0].network_digest == facts[1].network_digest != facts[2].network_digest
    assert len(facts[0].code_digest) == 64 and facts[0].preprocessing_digest == facts[2].preprocessing_digest
