# The command line of VITA with PyTorch for CPUs:
#   docker build -t vita .
#   docker run --rm -v "$PWD:/media" vita ask "What does the logo say?" --image assets/vita_logo.png
#   docker run --rm -it -v "$PWD:/media" -v vita-cache:/home/vita/.cache vita chat
#   docker build --build-arg EXTRAS="[serve,piper]" -t vita .   # the server and a voice too, then with a key of your choice:
#   docker run --rm -p 127.0.0.1:8000:8000 -e VITA_API_KEY=choose-one vita serve --host 0.0.0.0
# For an NVIDIA GPU: docker build --build-arg TORCH_BACKEND=cu130 -t vita . and docker run --gpus all …
FROM python:3.12-slim

# gcc compiles the native kernels for the processor that the container runs on, when a model first loads.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc=4:* libc6-dev=2.* \
    && rm -rf /var/lib/apt/lists/*

# PyTorch has a layer of its own, which a change of the code does not rebuild.
ARG TORCH_BACKEND=cpu
RUN pip install --no-cache-dir "uv>=0.7.14" \
    && uv pip install --system --no-cache --torch-backend "$TORCH_BACKEND" torch==2.13.0

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY recipes recipes
ARG EXTRAS=
# Versions are bounded in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".$EXTRAS" \
    && useradd --create-home --uid 1000 vita \
    && install -d -o vita -g vita /home/vita/.cache /media

USER 1000
WORKDIR /media
ENTRYPOINT ["vita"]
CMD ["--help"]
