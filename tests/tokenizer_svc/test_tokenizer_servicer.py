"""The tokenizer tier over real gRPC, with the tokenizer and template in the repository."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from qwenserve.chat.v1 import message_pb2 as chat
from qwenserve.runtime.config import load_config
from qwenserve.runtime.errors import InvalidRequest, ModelNotFound
from qwenserve.runtime.grpc_setup import from_rpc_error, make_channel, make_server
from qwenserve.text.assets import ModelAssets, load_assets
from qwenserve.tokenizer.v1 import tokenizer_pb2 as pb
from qwenserve.tokenizer.v1 import tokenizer_pb2_grpc
from qwenserve.tokenizer_svc.tokenizer_servicer import TokenizerServicer

MODEL = Path(__file__).parents[2] / "models" / "qwen3-tiny"
CONFIG = load_config(environment={}, overrides={"model.reference": str(MODEL)}).config


@pytest.fixture(scope="module")
def assets() -> ModelAssets:
    return load_assets(MODEL)


@pytest_asyncio.fixture
async def stub(assets: ModelAssets) -> AsyncIterator[tokenizer_pb2_grpc.TokenizerServiceStub]:
    server = make_server(CONFIG.grpc)
    tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(TokenizerServicer(assets, CONFIG), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with make_channel(f"127.0.0.1:{port}", CONFIG.grpc) as channel:
            yield tokenizer_pb2_grpc.TokenizerServiceStub(channel)
    finally:
        await server.stop(None)


def conversation(text: str, **fields: object) -> chat.Conversation:
    return chat.Conversation(messages=[chat.Message(role=chat.ROLE_USER, content=text)], **fields)  # type: ignore[arg-type]


async def test_texts_become_ids_in_order(stub, assets):
    """A batch gives one result per text, long ones (encoded in a thread) among short ones."""
    texts = ["hello", "", "你好，world", "a long text " * 2_000, "<|im_start|>user"]

    response = await stub.Tokenize(pb.TokenizeRequest(texts=texts))

    assert [assets.tokenizer.encode(text).tolist() for text in texts] == [
        list(result.ids) for result in response.results
    ]
    assert assets.max_model_len == response.max_model_len
    assert all(not result.tokens for result in response.results)


async def test_tokens_come_as_the_vocabulary_spells_them(stub):
    """On request each id comes with its own entry, parts of characters too."""
    request = pb.TokenizeRequest(model="QWEN3-tiny", texts=["three short é"], return_tokens=True)

    result = (await stub.Tokenize(request)).results[0]

    assert len(result.ids) == len(result.tokens)
    assert "".join(result.tokens) == "threeĠshortĠÃ©"


async def test_what_tokenizer_and_template_are(stub, assets):
    """Everything that a client needs to do the same elsewhere; another model's is not found."""
    info = await stub.GetTokenizerInfo(pb.GetTokenizerInfoRequest())

    added = {token.content: (token.id, token.special) for token in info.added_tokens}
    assert (info.model, info.vocab_size) == (CONFIG.model_name, assets.tokenizer.vocab_size)
    assert (info.chat_template, info.tool_chat_template) == (assets.template.source, "")
    assert set(info.eos_token_ids) == assets.eos_token_ids
    assert info.max_model_len == assets.max_model_len
    assert added[info.special_tokens["eos_token"]][1]
    assert added["<think>"] == (assets.tokenizer.added_ids["<think>"], False)
    with pytest.raises(grpc.RpcError) as refusal:
        await stub.GetTokenizerInfo(pb.GetTokenizerInfoRequest(model="other"))
    assert refusal.value.code() == grpc.StatusCode.NOT_FOUND


async def test_detokenize_reverses_tokenize(stub, assets):
    """Ids become the text again; special tokens are left out on request."""
    texts = ["hello 你好 🙂", "<|im_end|>\n", "x" * 40_000 + "y"]
    batches = [pb.TokenIds(ids=assets.tokenizer.encode(text)) for text in texts]

    whole = await stub.Detokenize(pb.DetokenizeRequest(batches=batches))
    plain = await stub.Detokenize(pb.DetokenizeRequest(batches=batches, skip_special_tokens=True))

    assert texts == list(whole.texts)
    assert [texts[0], "\n", texts[2]] == list(plain.texts)


async def test_chats_are_rendered_and_tokenized(stub, assets):
    """The prompt is what the template gives, and its ids are what the tokenizer gives."""
    conversations = [conversation("你好"), conversation("hi", enable_thinking=False)]

    response = await stub.TokenizeChat(pb.TokenizeChatRequest(conversations=conversations, return_prompt=True))

    user = {"role": "user"}
    expected = [
        assets.template.render([{**user, "content": "你好"}], enable_thinking=True),
        assets.template.render([{**user, "content": "hi"}], enable_thinking=False),
    ]
    assert expected == [result.prompt for result in response.results]
    assert [assets.tokenizer.encode(prompt).tolist() for prompt in expected] == [
        list(r.token_ids.ids) for r in response.results
    ]
    assert [result.starts_in_reasoning for result in response.results] == [False, False]


async def test_open_thought_is_seen(stub):
    """An answer that continues an open thought starts in reasoning."""
    open_thought = conversation("why?", continue_final_message=True)
    open_thought.messages.add(role=chat.ROLE_ASSISTANT, content="<think>\nwell")

    response = await stub.TokenizeChat(pb.TokenizeChatRequest(conversations=[open_thought]))

    assert response.results[0].starts_in_reasoning
    assert not response.results[0].prompt


@pytest.mark.parametrize(
    ("method", "request_", "error", "param"),
    [
        ("Tokenize", pb.TokenizeRequest(), InvalidRequest, "texts"),
        ("Tokenize", pb.TokenizeRequest(texts=["x"] * 1025), InvalidRequest, "texts"),
        ("Tokenize", pb.TokenizeRequest(model="gpt", texts=["x"]), ModelNotFound, "model"),
        ("TokenizeChat", pb.TokenizeChatRequest(), InvalidRequest, "conversations"),
        ("TokenizeChat", pb.TokenizeChatRequest(conversations=[conversation("x"), chat.Conversation()]),
         InvalidRequest, "conversations[1].messages"),
        ("TokenizeChat", pb.TokenizeChatRequest(conversations=[conversation("x", chat_template_kwargs_json="[")]),
         InvalidRequest, "conversations[0].chat_template_kwargs"),
        ("Detokenize", pb.DetokenizeRequest(), InvalidRequest, "batches"),
        ("Detokenize", pb.DetokenizeRequest(batches=[pb.TokenIds(ids=[1]), pb.TokenIds(ids=[0, -1])]),
         InvalidRequest, "batches[1].ids[1]"),
        ("Detokenize", pb.DetokenizeRequest(batches=[pb.TokenIds(ids=[1 << 30])]), InvalidRequest, "batches[0].ids[0]"),
    ],
)  # fmt: skip
async def test_errors_name_the_field(stub, method, request_, error, param):
    """What cannot be done is refused with the path of the field at fault."""
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await getattr(stub, method)(request_)

    meant = from_rpc_error(failure.value)
    assert (error, param) == (type(meant), meant.param)
