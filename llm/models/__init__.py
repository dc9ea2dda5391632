"""Language models as policies.

settings        which model, adapters, how it is sampled and scored
spec            a policy of these settings
loading         from settings to configuration, tokenizer, weights, policy
gate            what every model folder passes when it is loaded
writing         a model's folder, as every command writes it
proof           sampling and scoring against the model's own forward pass
adapters        LoRA adapters: new ones, and folders of them
shapes          sizes of models on the hub, for estimates without network access
architectures   small models with random weights
policy          a causal language model as a policy of `sims.core`
sampling        drawing responses with transformers
vllm_sampler    drawing responses with vLLM
scoring         log-probs of responses, in chunks of tokens
"""
