"""Every tensor of a reference's checkpoint is one of ours, and the numbers of parameters are those of the reference."""

import pytest
from helpers.teacher_networks import REFERENCES, entries, on_meta


@pytest.mark.parametrize("golden", REFERENCES)
def test_every_original_tensor_is_one_of_ours(golden):
    network, (_, rename, parameters) = on_meta(golden), REFERENCES[golden]
    theirs = {rename(key): (tuple(shape), dtype) for key, shape, dtype, *_ in entries(golden)}
    ours = {key: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in network.state_dict().items()}
    assert len(theirs) == len(entries(golden)) and theirs == ours
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
