"""Nothing that only makes a run faster may end it: a function on a GPU is tried again without."""
import warnings

import torch


def with_fallbacks(function, *remedies):
    """`function`; where it raises a RuntimeError that one of `remedies` helps against, it is called again.

    remedy: a function of the error -> whether it has changed something that makes another try worth while; each is of
    use once. The second try draws the random numbers of the first. function must leave no trace where it raises. Errors
    while a CUDA graph is recorded are left to whoever records it.
    """
    def run(*arguments, **named):
        while True:
            recording = torch.cuda.is_current_stream_capturing()
            generator = None if recording else torch.cuda.get_rng_state()
            try:
                return function(*arguments, **named)
            except RuntimeError as error:
                if recording or not any(remedy(error) for remedy in remedies):
                    raise
            # Only out here, where the error no longer holds on to what was computed, is that memory free again.
            torch.cuda.set_rng_state(generator)
    return run


def stop_cudnn(error):
    """A remedy: where cuDNN fails, torch's own kernels compute the same, more slowly."""
    is_cudnn = "cudnn" in str(error).lower() and not isinstance(error, torch.OutOfMemoryError)
    if not (is_cudnn and torch.backends.cudnn.enabled):
        return False
    torch.backends.cudnn.enabled = False
    warnings.warn(f"going on without cuDNN, more slowly: {str(error).splitlines()[0][:200]}", stacklevel=2)
    return True
