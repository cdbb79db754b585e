"""vLLM in a process of its own: `python -m selfimprove.sampling.vllm_engine FD`, started by `sampling/vllm.py`.

The engine's core runs in this very process (VLLM_ENABLE_V1_MULTIPROCESSING=0), and this process ends when the other
end of its socket closes, however that comes about: a core that vLLM starts by itself goes on after a SIGKILL of its
parent (vllm issue 55510).
"""

from __future__ import annotations

import io
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from tqdm import tqdm

from selfimprove.models.adapters import attach
from selfimprove.models.policy import Policy, pick_dtype
from selfimprove.sampling.sampler import Decoding, Request, Sampled


class Engine:
    """One `vllm.LLM`, with the policy it holds. The methods are what the other process may ask for by name."""

    def __init__(self, policy: Policy, options: dict[str, Any], tell: Callable[[int], None]) -> None:
        import vllm

        self._tell, self._on_cpu = tell, options["on_cpu"]
        self._hot = options["adapters"] == "hot"
        self._asleep = False
        self._policy = replace(policy, adapter=None, adapter_digest=None)  # what a new engine holds
        self._adapters: dict[str, Any] = {}
        arguments: dict[str, Any] = {
            "model": policy.base,
            "dtype": options["dtype"],
            "max_model_len": options["max_model_len"],
            "trust_remote_code": policy.trust_remote_code,
            "generation_config": "vllm",  # decoding is what the recipe says, whatever the model's own defaults
            "enable_prefix_caching": True,  # a prompt is computed once for its n responses
            "disable_log_stats": True,
            "seed": 0,
        }
        if self._on_cpu:
            # A prompt cut in two by chunked prefill would rewind its generator, and a CPU generator cannot be
            # rewound (0.32 raises); compiling costs more here than it gains in a short run.
            arguments |= {
                "enable_chunked_prefill": False,
                "max_num_batched_tokens": max(options["max_model_len"], 2048),
                "max_num_seqs": 256,
                "block_size": 32,
                "enforce_eager": not options["compile"],
            }
        else:
            arguments |= {"gpu_memory_utilization": options["gpu_memory"], "enable_sleep_mode": True}
        if self._hot:
            arguments |= {"enable_lora": True, "max_lora_rank": options["max_lora_rank"], "max_loras": 1}
        self._llm = vllm.LLM(**arguments)
        self.version = str(vllm.__version__)

    def set_weights(self, policy: Policy) -> dict[str, Any]:
        """Makes `policy` the one sampled from. Returns the log-probs of the probe's ids before and after the swap."""
        self.wake()
        before = self._probe_log_probs()
        after, changed = before, policy.digest != self._policy.digest
        if changed:
            self._load(policy)
            self._policy = policy
            after = self._probe_log_probs()
        return {"changed": changed, "before": before, "after": after, "ids": _PROBE_IDS}

    def _load(self, policy: Policy) -> None:
        if self._hot:
            # Adapters are requests' business; the base stays. A versioned name and number for every digest.
            if policy.adapter and policy.digest not in self._adapters:
                from vllm.lora.request import LoRARequest

                number = len(self._adapters) + 1
                self._adapters[policy.digest] = LoRARequest(f"policy-{policy.digest[:16]}", number, policy.adapter)
        elif policy.adapter:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(policy)})
        else:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": policy.base})
        self._reset()

    def _reset(self) -> None:
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache, so it may answer with the weights of before")

    def sample(self, requests: list[Request], decoding: Decoding) -> list[list[Sampled]]:
        """n responses of each request. The prefix cache begins empty, so that a shard does not depend on those before
        it."""
        import vllm

        self.wake()
        self._reset()
        parameters = [
            vllm.SamplingParams(
                n=request.n if decoding.temperature else 1,  # greedy answers are all the same, and vLLM refuses to ask
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                max_tokens=decoding.max_new_tokens,
                seed=request.seed,  # vLLM gives response i seed + i
                stop_token_ids=list(decoding.stop_ids),
                ignore_eos=True,  # `stop_ids` alone end a response
                logprobs=0,  # of the sampled token, under the policy itself ("raw_logprobs")
                top_k=decoding.top_k,
                min_p=decoding.min_p,
                repetition_penalty=decoding.repetition_penalty,
                stop=list(decoding.stop),
                include_stop_str_in_output=bool(decoding.stop),
                detokenize=bool(decoding.stop),
            )
            for request in requests
        ]
        outputs = self._llm.generate(
            [vllm.TokensPrompt(prompt_token_ids=list(request.prompt_ids)) for request in requests],
            parameters,
            use_tqdm=self._bar,
            lora_request=self._adapters.get(self._policy.digest),
        )
        sampled = [[_sampled(one) for one in sorted(o.outputs, key=lambda one: one.index)] for o in outputs]
        if not decoding.temperature:
            sampled = [one * request.n for one, request in zip(sampled, requests, strict=True)]
        return sampled

    def _bar(self, *iterables: Any, **options: Any) -> Any:
        """What vLLM takes for tqdm: tells the other process of finished responses. It also wraps the prompts in one."""
        if iterables:
            return iterables[0]
        tell = self._tell

        class Bar(tqdm):  # type: ignore[type-arg]
            def update(self, n: float | None = 1) -> bool | None:
                tell(int(n or 0))
                return super().update(n)

        # Whatever TQDM_DISABLE says: vLLM divides by the time that a disabled bar does not keep.
        return Bar(**(options | {"file": io.StringIO(), "disable": False}))

    def _probe_log_probs(self) -> list[float]:
        """Log-probs (nats) of a fixed text's tokens under the weights the engine holds."""
        import vllm

        self._reset()
        parameters = vllm.SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self._llm.generate(
            [vllm.TokensPrompt(prompt_token_ids=_PROBE_IDS)],
            parameters,
            use_tqdm=False,
            lora_request=self._adapters.get(self._policy.digest),
        )
        found = output.prompt_logprobs[1:]
        return [float(at[token].logprob) for at, token in zip(found, _PROBE_IDS[1:], strict=True)]

    def sleep(self) -> None:
        """GPU: gives the memory back for training. Level 2 drops the weights, which are read again on waking; with
        adapters on top the base never changes, so level 1 keeps it in main memory."""
        if not self._on_cpu and not self._asleep:
            self._llm.sleep(level=1 if self._hot else 2)
            self._asleep = True

    def wake(self) -> None:
        """Undoes `sleep`: memory first, then the weights, then the cache."""
        if self._asleep:
            self._llm.wake_up(tags=["weights"])
            if not self._hot:
                self._load(self._policy)
            self._llm.wake_up(tags=["kv_cache"])
            self._asleep = False
            self._reset()


# Any ids do: what is asked is whether the numbers change with the weights. Small ones are in every vocabulary.
_PROBE_IDS = [11, 47, 95, 120, 33, 71, 58, 102, 64, 29, 83, 17, 110, 42, 76, 99]


def _sampled(output: Any) -> Sampled:
    ids = [int(id) for id in output.token_ids]
    each = [float(at[id].logprob) for at, id in zip(output.logprobs, ids, strict=True)]
    return Sampled(ids, "stop" if output.finish_reason == "stop" else "length", sum(each), each)


def merged_weights(policy: Policy) -> Iterator[tuple[str, Any]]:
    """Name and tensor of every weight of the policy with its adapter merged into the base (fp32 sums, as PEFT does)."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        policy.base,
        dtype=pick_dtype("float32", "cpu"),
        trust_remote_code=policy.trust_remote_code,
        use_safetensors=True,
    )
    merged = attach(model, policy).merge_and_unload()
    tied = getattr(merged.config, "tie_word_embeddings", False)
    for name, tensor in merged.state_dict().items():
        if not (tied and name == "lm_head.weight"):
            yield name, tensor


def _listen(connection: Connection, inbox: queue.Queue[Any]) -> None:
    """Takes requests; the end of the socket is the end of this process and of those it started."""
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            os.killpg(os.getpgid(0), signal.SIGKILL)


def main() -> None:
    """Answers `(method, arguments)` with `("done", result)`, `("advance", n)` on the way, or `("failed", text)`."""
    connection = Connection(int(sys.argv[1]))
    inbox: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(connection, inbox), daemon=True).start()
    engine: Engine | None = None
    while True:
        name, arguments = inbox.get()
        try:
            if name == "start":
                policy, options = arguments
                engine = Engine(policy, options, lambda n: connection.send(("advance", n)))
                connection.send(("done", engine.version))
            else:
                connection.send(("done", getattr(engine, name)(*arguments)))
        except Exception as error:
            traceback.print_exc()
            connection.send(("failed", f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main()
