import pytest
import torch

from audiovq.quantize.residual import SplitQuantizer


def make(**settings):
    torch.manual_seed(0)
    quantizer = SplitQuantizer(
        4, 6, n_codebooks=4, codebook_size=16, content={"init_after": None}, detail={"init_after": None}, **settings
    )
    torch.nn.init.normal_(quantizer.predict.weight)
    return quantizer


def latents(n=3, frames=20):
    return torch.randn(n, 10, frames, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_codebooks", [1, 2, 4])
def test_decode_gives_the_latents_of_forward(n_codebooks):
    quantizer = make().eval()
    quantized = quantizer(latents(), n_codebooks)
    assert quantized.codes.shape == (3, n_codebooks, 20)
    assert torch.equal(quantizer.decode(quantized.codes), quantized.latents)
    assert torch.equal(quantizer.encode(latents(), n_codebooks), quantized.codes)


def test_each_item_can_have_a_number_of_its_own():
    quantizer = make().eval()
    books = torch.tensor([1, 3, 4])
    quantized = quantizer(latents(), books)
    assert torch.equal((quantized.codes[:, :, 0] >= 0).sum(1), books)
    for i, n in enumerate(books.tolist()):
        alone = quantizer(latents()[i : i + 1], n)
        assert torch.allclose(quantized.latents[i], alone.latents[0])


def test_one_codebook_is_content_alone():
    quantizer = make().eval()
    x = latents()
    other = torch.cat([x[:, :4], torch.randn_like(x[:, 4:])], dim=1)
    assert torch.equal(quantizer(x, 1).latents, quantizer(other, 1).latents)
    assert not quantizer(x, 1).latents[:, 4:].any()


def test_detail_codes_hold_what_content_does_not_predict():
    """Detail latents that are the prediction itself leave nothing over: their codes do not depend on the content."""
    quantizer = make().eval()
    x = latents()
    content = quantizer.content(x[:, :4]).latents
    x[:, 4:] = quantizer.prediction(content)
    codes = quantizer.encode(x)[:, 1]
    assert (codes == codes[0, 0]).all()


def test_items_without_detail_give_it_no_gradient():
    quantizer = make().train()
    x = latents().requires_grad_()
    quantizer(x, torch.tensor([1, 2, 4])).latents.sum().backward()
    assert not x.grad[0, 4:].any()
    assert x.grad[1, 4:].all()
    assert x.grad[0, :4].all()


def test_all_levels_learn_from_items_that_use_few():
    quantizer = make().train()
    before = quantizer.detail.levels[2].codebook.counts.clone()
    quantizer(latents(), torch.tensor([1, 1, 1]))
    assert not torch.equal(quantizer.detail.levels[2].codebook.counts, before)


def test_the_decoders_gradient_to_content_can_be_scaled():
    gradients = []
    for share in (1.0, 0.1):
        x = latents().requires_grad_()
        quantized = make(content_gradient=share).train()(x, 2)
        quantized.latents.sum().backward()
        gradients.append(x.grad[:, :4])
    assert torch.allclose(gradients[1], 0.1 * gradients[0])


def test_numbers_are_drawn_in_training():
    quantizer = make(book_weights=[1, 0, 0, 3]).train()
    torch.manual_seed(0)
    used = (quantizer(latents(200), None).codes[:, :, 0] >= 0).sum(1)
    assert set(used.tolist()) == {1, 4}
    assert abs((used == 4).float().mean() - 0.75) < 0.12
