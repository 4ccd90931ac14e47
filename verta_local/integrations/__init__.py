"""Callbacks and hooks that log what a machine-learning library does to a run; each module needs its library alone.

Verta's names: `keras.VertaCallback`, `xgboost.verta_callback`, `sklearn` (importing it lets `fit` take `run=`),
`torch.verta_hook`, `tensorflow.VertaHook`, `tensorflow.log_tensorboard_events`. Ours besides: `lightning.VertaLogger`,
`transformers.VertaCallback`, `lightgbm.verta_callback`, `optuna.VertaCallback`.
"""

from __future__ import annotations
