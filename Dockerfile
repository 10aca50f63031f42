# The container image of Resight: `make image`, which builds the wheel in dist/ first. See docs/container.md.

FROM debian:bookworm-slim AS tools
# hadolint ignore=DL3008 # Debian keeps one version of a stable package, the latest security fix
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-pip \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /build

# What is to be installed. What else changes in pyproject.toml changes no line of it, and no stage that follows.
FROM tools AS requirements
# Extras of pyproject.toml.
ARG EXTRAS=s3,onnx,serve
COPY pyproject.toml image/requirements.py ./
RUN python3 requirements.py pyproject.toml "$EXTRAS" > requirements.txt \
 && grep -E '^torch(vision)?\W' requirements.txt > torch.txt

# Everything but Resight itself, torch first.
FROM tools AS dependencies
# The wheel index that torch and torchvision come from, e.g. PyTorch's for CPUs; without it, pip's own.
ARG TORCH_INDEX=""
# pip's own settings: another index for everything, or none, so that all wheels must lie in image/wheels.
ARG PIP_INDEX_URL=""
ARG PIP_NO_INDEX=""
# What pip installs for, and where it looks first.
ENV PIP_PYTHON=/opt/resight/bin/python PIP_FIND_LINKS=/build/wheels
RUN python3 -m venv --without-pip /opt/resight
COPY image/wheels wheels
COPY --from=requirements /build/torch.txt ./
RUN python3 -m pip install --no-cache-dir --no-compile ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -r torch.txt
COPY --from=requirements /build/requirements.txt ./
COPY image/slim.py ./
RUN python3 -m pip install --no-cache-dir --no-compile -r requirements.txt \
 && python3 slim.py /opt/resight

# Resight itself: a layer of its own.
FROM dependencies AS application
COPY dist/resight-*.whl ./
RUN python3 -m pip install --no-cache-dir --no-compile --no-index --no-deps --prefix /application resight-*.whl \
 && python3 slim.py /application

FROM debian:bookworm-slim
# hadolint ignore=DL3008 # as above
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates python3 \
 && apt-get clean \
 && rm -rf /var/lib/apt/lists/* /var/cache/debconf/*-old /var/log/* \
 && useradd --uid 1000 --user-group --home-dir /workspace --no-create-home --shell /usr/sbin/nologin resight \
 # Whatever uid a container is given may write here.
 && install --directory --owner resight --group resight --mode 1777 /workspace
COPY --from=dependencies /opt/resight /opt/resight
COPY --from=application /application /opt/resight
# HOME holds the caches. USER is what libraries ask for where the uid has no name.
ENV PATH=/opt/resight/bin:$PATH \
    HOME=/workspace \
    USER=resight \
    PYTHONDONTWRITEBYTECODE=1 \
    RESIGHT_LOG_STREAM=stdout
WORKDIR /workspace
USER 1000:1000
# Of a server; a container that serves nothing is healthy.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["/opt/resight/bin/python3", "-m", "resight.serving.health"]
ENTRYPOINT ["resight"]
CMD ["--help"]
ARG VERSION=""
ARG GIT_COMMIT=""
# It starts. Besides, Buildah and Podman look at the arguments of a command alone: without one here they would take the
# lines below from their cache, with the commit of an earlier build.
RUN ["resight", "--version"]
ENV RESIGHT_GIT_COMMIT=$GIT_COMMIT
LABEL org.opencontainers.image.title="Resight" \
      org.opencontainers.image.description="Fine-tunes a pretrained Faster R-CNN on your own images" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$GIT_COMMIT" \
      org.opencontainers.image.licenses="Apache-2.0"
