# `genrank serve` for a folder of published models and its prepared data:
#   docker build -t genrank .
#   docker run -p 8080:8080 -v /srv/genrank:/srv/genrank -e GENRANK_TOKEN=… genrank \
#     /srv/genrank/models --history /srv/genrank/data --store /srv/genrank/events.sqlite
# Behind a balancer with several workers, give --store redis://… instead.
FROM python:3.12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/genrank
ENV PATH=/opt/genrank/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
# A build of PyTorch for CPUs only is much smaller: --build-arg PIP_OPTIONS='--extra-index-url …', see pytorch.org.
ARG PIP_OPTIONS=""
RUN pip install --no-cache-dir ${PIP_OPTIONS} '.[serve,redis]'

FROM python:3.12-slim
# The C++ kernels are compiled on first use.
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 genrank
COPY --from=build /opt/genrank /opt/genrank
ENV PATH=/opt/genrank/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
EXPOSE 8080
HEALTHCHECK --interval=10s --start-period=60s CMD \
    ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health/ready', timeout=2)"]
ENTRYPOINT ["genrank", "serve", "--host", "0.0.0.0"]
