# The image of kuberay.yaml and cluster.yaml: catdog with all its packages, at the versions of .ci/constraints.txt.
#
#   docker build -t registry.example.com/catdog:0.1.0-cpu .
#   docker build -t registry.example.com/catdog:0.1.0-gpu --build-arg DEVICE=gpu .
#
# Replace registry.example.com with your registry, here and in both files, and `docker push` the two images.

ARG DEVICE=cpu
FROM rayproject/ray:2.60.0-py311-${DEVICE}
ARG DEVICE

RUN mkdir /home/ray/catdog
WORKDIR /home/ray/catdog
COPY --chown=ray:users pyproject.toml README.md LICENSE ./
COPY --chown=ray:users .ci/constraints.txt .ci/constraints.txt
COPY --chown=ray:users catdog catdog
COPY --chown=ray:users jobs jobs

# For GPUs, TensorFlow brings its own CUDA packages. On AWS, the autoscaler needs boto3.
RUN pip install --no-cache-dir -c .ci/constraints.txt -e '.[optuna]' boto3 \
      $(if [ "$DEVICE" = gpu ]; then echo 'tensorflow[and-cuda]'; fi) \
 && python -m catdog --version
