"""Language models as policies.

settings        which model, adapters, how it is scored
decoding        settings of what its tokens are drawn from, and by what
spec            a policy of these settings
loading         from settings to configuration, tokenizer, weights, policy
gate            what every model folder passes when it is loaded
writing         a model's folder, as every command writes it
proof           sampling and scoring against the model's own forward pass
adapters        LoRA adapters: new ones, and folders of them
shapes          sizes of models on the hub, for estimates without network access
architectures   small models with random weights
policy          a causal language model as a policy of `sims.core`
aside           a copy of a policy in the machine's memory, for evaluations
sampling        drawing responses with transformers
steps           a token at a time, with a cache that grows or one of fixed size
vllm_sampler    drawing responses with vLLM
scoring         a model as backbone, head and critic: from rows of tokens to log-probs of their responses
forward         one forward pass of whatever architecture, padded or not: positions, cache, checkpoints, what comes
                after the head, and log-probs of tokens, a chunk at a time
copies          frozen copies: what they share, and in what precision they hold the rest
quantised       a frozen base in four bits under adapters
quiet           libraries that warn where there is nothing to warn of
"""
