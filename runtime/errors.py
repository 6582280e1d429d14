"""Bad input ends in one clear line, not in a traceback."""
import os
import sys


class InputError(ValueError):
    """Something the user gave cannot be used: the message says what, where, and what to do, in one line."""


def run(main):
    """Run a script's `main`; end the process with one line on stderr and status 1 for what the user can correct."""
    script = os.path.basename(sys.argv[0])
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"{script}: error: {' '.join(str(error).split())}")
    except BrokenPipeError:  # the reader of a pipe, `head` say, has gone: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"{script}: error: {error.filename or 'the system'}: {error.strerror or error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError:
        sys.exit(f"{script}: error: out of memory; a smaller batch size, model or corpus needs less")
    except RuntimeError as error:  # torch has no classes of its own for these in all its versions
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            sys.exit(f"{script}: error: out of memory; try a smaller --batch-size, --bptt or model")
        if "CUDA error" in str(error):
            sys.exit(f"{script}: error: the GPU failed: {str(error).splitlines()[0]}")
        raise
