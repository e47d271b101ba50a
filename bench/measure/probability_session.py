"""An ONNX file that ends in probabilities, as a session that gives logits: what a bench evaluates."""

from __future__ import annotations

from collections.abc import Mapping

from medfm_compress.bench.measure.graph_ending import Ending, logits_of_outputs
from medfm_compress.runtime.sessions import onnxruntime
from medfm_compress.runtime.sessions.protocol import Array, Session


class ProbabilitySession:
    """Takes the softmax or the sigmoids of another session's first output back; the time that takes counts with it."""

    def __init__(self, inner: Session, ending: Ending) -> None:
        self._inner, self._ending = inner, ending
        self.input_names, self.output_names, self.info = inner.input_names, inner.output_names, inner.info

    def run(self, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        """Logits ``[1, labels]`` float32 of a normalised image ``[1, channels, height, width]`` float32."""
        outputs = dict(self._inner.run(inputs))
        first = self.output_names[0]
        outputs[first] = logits_of_outputs(outputs[first], self._ending)
        return outputs


def open_session(model: str, threads: int, precision: str, ending: Ending) -> Session:
    """Open the ONNX file at path ``model``; raises what ONNX Runtime's session raises."""
    return ProbabilitySession(onnxruntime.open_session(model, threads, precision), ending)
