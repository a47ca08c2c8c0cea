# autotune with ONNX Runtime and OpenVINO. What is measured in a container holds for the machine that it runs on.
#
#     docker build -t autotune .
#     docker run --rm -v "$PWD:/work" autotune run experiment.yaml
FROM python:3.11-slim
COPY . /src
RUN pip install --no-cache-dir '/src[images,openvino,quickstart]' && rm -rf /src
WORKDIR /work
ENTRYPOINT ["autotune"]
