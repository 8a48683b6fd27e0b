"""What things are called: classes of PyTorch by kind, and the names that people give them."""

import re
from typing import Final


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


OPTIMIZERS: Final = words(
    "SGD Adam AdamW NAdam RAdam Adamax Adadelta Adagrad RMSprop Rprop LBFGS "
    "SparseAdam ASGD Adafactor Lion Muon LAMB Lamb LARS Lars AdamP SGDP AdaBelief "
    "Ranger Sophia SophiaG Prodigy DAdaptAdam AdamW8bit Adam8bit PagedAdamW8bit "
    "FusedAdam FusedLAMB AdaBound AdamWScheduleFree SGDScheduleFree StableAdamW "
    "BertAdam ZeroRedundancyOptimizer"
)
"""Classes that update parameters."""
ADAPTIVE: Final = frozenset(OPTIMIZERS - {"SGD", "SGDP", "ASGD", "LARS", "Lars", "LBFGS", "Rprop"})
"""Optimizers whose state is worth keeping from step to step."""

SCHEDULERS: Final = words(
    "StepLR MultiStepLR ConstantLR LinearLR ExponentialLR PolynomialLR "
    "CosineAnnealingLR CyclicLR CosineAnnealingWarmRestarts OneCycleLR LambdaLR "
    "MultiplicativeLR SequentialLR ReduceLROnPlateau ChainedScheduler "
    "get_linear_schedule_with_warmup get_cosine_schedule_with_warmup "
    "get_constant_schedule_with_warmup get_constant_schedule "
    "get_polynomial_decay_schedule_with_warmup get_inverse_sqrt_schedule "
    "get_scheduler get_cosine_with_hard_restarts_schedule_with_warmup "
    "get_wsd_schedule"
)
"""Classes and functions that make a learning-rate schedule."""

NORMS: Final = words(
    "BatchNorm1d BatchNorm2d BatchNorm3d LazyBatchNorm1d LazyBatchNorm2d "
    "LazyBatchNorm3d SyncBatchNorm LayerNorm RMSNorm GroupNorm InstanceNorm1d "
    "InstanceNorm2d InstanceNorm3d"
)
BATCH_NORMS: Final = frozenset(name for name in NORMS if "BatchNorm" in name)
DROPOUTS: Final = words(
    "Dropout Dropout1d Dropout2d Dropout3d AlphaDropout FeatureAlphaDropout DropPath"
)
WITH_DROPOUT: Final = frozenset(
    ["Transformer", "TransformerEncoderLayer", "TransformerDecoderLayer"]
)
"""Layers whose dropout is on unless it is turned off."""
CONTAINERS: Final = frozenset(
    {"Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict"}
)
AFFINE: Final = words(
    "Linear LazyLinear Bilinear Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d "
    "ConvTranspose3d LazyConv1d LazyConv2d LazyConv3d"
)
"""Layers whose outputs are any numbers: logits, where they come last."""
LAYERS: Final = (
    NORMS
    | DROPOUTS
    | WITH_DROPOUT
    | AFFINE
    | CONTAINERS
    | words(
        "Embedding EmbeddingBag RNN LSTM GRU RNNCell LSTMCell GRUCell MultiheadAttention "
        "TransformerEncoder TransformerDecoder ReLU ReLU6 LeakyReLU PReLU GELU SiLU ELU "
        "SELU CELU Tanh Sigmoid Softplus Softmax LogSoftmax Hardtanh Hardswish Mish "
        "Identity Flatten Unflatten MaxPool1d MaxPool2d MaxPool3d AvgPool1d AvgPool2d "
        "AvgPool3d Upsample AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d "
        "AdaptiveMaxPool2d PixelShuffle ZeroPad2d Softmax2d"
    )
)
"""Modules of torch.nn that a network is built from."""

CROSS_ENTROPIES: Final = frozenset({"CrossEntropyLoss", "cross_entropy"})
NLL_LOSSES: Final = frozenset({"NLLLoss", "nll_loss"})
LOGIT_BCES: Final = frozenset(
    {
        "BCEWithLogitsLoss",
        "binary_cross_entropy_with_logits",
        "MultiLabelSoftMarginLoss",
        "multilabel_soft_margin_loss",
        "sigmoid_focal_loss",
    }
)
PROBABILITY_BCES: Final = frozenset({"BCELoss", "binary_cross_entropy"})
ORDERED_LOSSES: Final = CROSS_ENTROPIES | NLL_LOSSES | LOGIT_BCES | PROBABILITY_BCES
"""Losses that are not the same with their arguments swapped."""
LOSSES: Final = ORDERED_LOSSES | words(
    "MSELoss L1Loss SmoothL1Loss HuberLoss KLDivLoss PoissonNLLLoss GaussianNLLLoss "
    "HingeEmbeddingLoss SoftMarginLoss MultiMarginLoss mse_loss l1_loss "
    "smooth_l1_loss huber_loss kl_div poisson_nll_loss gaussian_nll_loss "
    "soft_margin_loss multi_margin_loss"
)

WRAPPERS: Final = words(
    "DataParallel DistributedDataParallel DDP FullyShardedDataParallel FSDP compile "
    "convert_sync_batchnorm tqdm trange track DataPrefetcher fully_shard"
)
"""What returns its first argument, wrapped or changed."""
SAME_OBJECT: Final = words(
    "to cuda cpu half float double bfloat16 train eval requires_grad_ apply to_empty xpu mps"
)
"""Methods of a module that return the module."""
SHAPERS: Final = words(
    "squeeze unsqueeze view reshape flatten float double half to contiguous transpose "
    "permute t cuda cpu unbind expand clone type_as view_as movedim swapaxes type "
    "bfloat16 narrow select requires_grad_"
)
"""Methods and functions that leave the values of a tensor as they are."""

OPTIMIZER_NAME: Final = re.compile(r"(?i)optim|(^|_)opt(_[a-z0-9]{1,4}|[0-9dg])?$")
SCHEDULER_NAME: Final = re.compile(r"(?i)sched|(^|_)lr_?s$")
SCALER_NAME: Final = re.compile(r"(?i)(^|_)(grad_?|loss_?|amp_?)?scaler$")
MODEL_NAME: Final = re.compile(
    r"""(?ix)
    (^|_)(models?|net(work)?|[a-z]*net|classifier|backbone|encoder|decoder|generator|
    discriminator|critic|actor|policy|net[dg]|module|transformer|cnn|mlp|rnn|lstm|gru|vae|
    autoencoder)(_?[0-9a-z])?$
    """
)
LOSS_NAME: Final = re.compile(r"(?i)(loss|criterion|objective|(^|_)err([dg]|or)?)(_|$|[0-9a-z])")
LOSS_FUNCTION_NAME: Final = re.compile(
    r"""(?ix)
    (^|_)(loss(_?(fn|func?|function))?|criterion(_?[a-z0-9]+)?|objective|crit)$|_loss$|Loss$
    """
)
TRAIN_DATA_NAME: Final = re.compile(r"(?i)train(?!er)|trn(_|$)")
HELD_OUT_NAME: Final = re.compile(
    r"""(?ix)
    (^|_|\b)(val|valid|validation|test|testing|eval|evaluation|dev|holdout|heldout)
    (_|\b|loader|dl|dataloader|data|set|ds|dataset|iter|batches|x)
    """
)
EVALUATION_NAME: Final = re.compile(
    r"""(?ix)
    (^|_)(eval|evaluate|evaluation|validate|validation|valid|val|test|infer|inference|
    predict)(_|$)
    """
)
TARGET_NAME: Final = re.compile(
    r"""(?ix)
    ^(y|ys|yb|y_?true|y_?batch|y_?train|batch_?y|b_?y|yy|labels?|targets?|lbls?|gt|
    ground_?truth|classes|tgt|truth)[0-9]?$|_(labels?|targets?)$|^(label|target)s?_
    """
)
DATA_NAME: Final = re.compile(
    r"""(?ix)
    ^(x|xs|xb|x_?batch|x_?train|batch(_?[xy])?|b_?x|inputs?|images?|imgs?|data|features?|
    feats|samples?|src|seqs?|sequences?|texts?|tokens|real)[0-9]?$
    """
)
FRAMEWORK_NAME: Final = re.compile(
    r"""(?ix)
    accelerator|fabric|engine|deepspeed|strategy|booster|ppe?$
    """
)
OTHER_NETWORK_NAME: Final = re.compile(
    r"""(?ix)
    target|ema|shadow|avg|average|teacher|moment|mean_|slow|old|copy|swa|_k(\b|_|\.)|key|init
    """
)
"""Networks that follow another one; nothing is trained through them."""
