"""Option names of TRL and of transformers' Trainer, and what stands for each here.

Where a name is the same in both, it is the option itself and not listed. A name that is here is refused with its line,
never taken to mean something else: few mean exactly the same.
"""

from __future__ import annotations

from collections.abc import Mapping

_VLLM = "vLLM runs in the training process here (--use-vllm), not as a server"
_ADAPTERS = "adapters are plain LoRA, without dropout, so that an on-policy ratio is 1"
_CORRECTION = "use --log-sampler-mismatch to see how far vLLM is off; there is no correction"
_PRECISION = "use --precision for trained weights, --base-precision under adapters, --compute-precision for passes"
_QUANTISED = "use --base-precision nf4: NF4 in blocks of 64, whose scales are not quantised again"
_PACKING = "use --padding-free: the rows of a pass are one sequence, whatever their lengths"
_NOT_HERE = "there is no such thing here"
_VARIANT = "a variant of the loss that is not among the algorithms; --algorithm lists them"

_TRAINER = """
    accelerator_config activation_checkpointing_kwargs average_tokens_across_devices batch_eval_metrics
    bf16_full_eval dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context
    dataloader_num_workers dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor
    ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout
    debug disable_tqdm do_predict enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches
    eval_on_start eval_use_gather_object fp16_full_eval fsdp_config full_determinism hub_always_push hub_model_id
    hub_private_repo hub_revision hub_strategy hub_token ignore_data_skip include_for_metrics
    include_num_input_tokens_seen label_names label_smoothing_factor length_column_name liger_kernel_config
    local_rank log_level log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter
    logging_strategy neftune_noise_alpha optim_args optim_target_modules parallelism_config prediction_loss_only
    project restore_callback_states_from_checkpoint save_on_each_node save_only_model skip_memory_metrics tf32
    torch_empty_cache_steps trackio_bucket_id trackio_space_id
    trackio_static_space_id use_cache
"""  # of transformers' Trainer, without anything that stands for them

TRL_NAMES: Mapping[str, str] = {
    **dict.fromkeys(_TRAINER.split(), "an option of transformers' Trainer; nothing stands for it here"),
    # the model
    "model_name_or_path": "use --model",
    "model_revision": "use --revision",
    "dtype": _PRECISION,
    "torch_dtype": _PRECISION,
    "bf16": "use --compute-precision bfloat16",
    "fp16": "use --compute-precision bfloat16: float16 is not offered",
    "trust_remote_code": "no code of a model folder is ever run",
    "use_peft": "use --lora-rank",
    "lora_r": "use --lora-rank",
    "lora_dropout": _ADAPTERS,
    "use_rslora": _ADAPTERS,
    "use_dora": _ADAPTERS,
    "lora_target_parameters": "use --lora-target-modules",
    "lora_modules_to_save": "use --lora-target-modules; all else of the base stays as it is",
    "load_in_8bit": "use --base-precision nf4: 8 bits (LLM.int8) depend on what else is in the batch",
    "load_in_4bit": "use --base-precision nf4",
    "lora_task_type": "every model here is a causal language model",
    **dict.fromkeys(("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage"), _QUANTISED),
    "model_init_kwargs": "--model, --revision, --weights and --precision are what can be said of how a model is made",
    "cast_lm_head_to_fp32": "log-probs are always computed in float32 or better",
    "router_aux_loss_coef": _NOT_HERE,
    "activation_offloading": "use --gradient-checkpointing",
    "disable_dropout": "dropout is always off",
    "ref_model": "the reference is --model as it is before the first update",
    # the data
    "dataset_name": "use --data, with --data-kind",
    "dataset_config": "use --data-config",
    "dataset_train_split": "use --data-split",
    "dataset_test_split": "use --evaluation-split",
    "dataset_streaming": "use --stream-data",
    "streaming": "use --stream-data",
    "datasets": "use --data a.jsonl:0.7,b.jsonl:0.3",
    "test_split_size": "use --held-out-share",
    "dataset_text_field": "use --data-kind language_modeling; the column is text",
    "dataset_num_proc": "data are read in one process",
    "dataset_kwargs": "use --data-kind, --prompt-template and the names of columns, as in --prompt-column",
    "chat_template_path": "the chat template is the tokenizer's",
    "chat_template_kwargs": "the chat template is used without arguments",
    "eos_token": "EOS is the tokenizer's, and further ends are those of the model's generation_config.json",
    "pad_token": "padding is known from masks: any token will do",
    "pad_to_multiple_of": _NOT_HERE,
    "remove_unused_columns": "further columns go to reward functions",
    "max_length": "use --max-prompt-length, --max-completion-length and --on-too-long",
    "truncation_mode": "use --on-too-long truncate: prompts keep their end, completions their start",
    "completion_only_loss": "use --data-kind prompt_completion, whose prompts are not trained on",
    "assistant_only_loss": "use --data-kind language_modeling: only the assistant's messages are trained on",
    **dict.fromkeys(("packing", "packing_strategy", "eval_packing"), _PACKING),
    "shuffle_dataset": "rows are in a new order every epoch, by --seed",
    # rewards
    "reward_model_name_or_path": "use --task learned-reward --reward-model",
    "multi_objective_aggregation": "rewards are weighted and summed",
    # sampling
    "num_generations_eval": "evaluations draw one response to each of --evaluation-prompts",
    "top_k": "use --top-p",
    "min_p": "use --top-p",
    "repetition_penalty": "use --temperature and --top-p: a penalty samples from another distribution than is trained",
    "generation_kwargs": "use --temperature, --top-p, --stop-strings",
    **dict.fromkeys(
        (
            *("vllm_mode", "vllm_model_impl", "vllm_enable_sleep_mode", "vllm_structured_outputs_regex"),
            *("vllm_server_base_url", "vllm_server_host", "vllm_server_port", "vllm_server_timeout"),
            *("vllm_group_port", "vllm_tensor_parallel_size"),
        ),
        _VLLM,
    ),
    **dict.fromkeys(
        (
            *("vllm_importance_sampling_correction", "vllm_importance_sampling_mode", "vllm_importance_sampling_cap"),
            *("vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min"),
        ),
        _CORRECTION,
    ),
    **dict.fromkeys(
        (
            *("use_transformers_continuous_batching", "transformers_continuous_batching_config"),
            *("use_transformers_paged", "ds3_gather_for_generation"),
        ),
        "rows that have ended leave the batch; use --sample-batch-size, and --sharding update",
    ),
    "max_tool_calling_iterations": "a response is one turn",
    # batches and updates
    "per_device_train_batch_size": "use --batch-size, prompts on all devices, and --micro-batch-size, prompts per pass",
    "gradient_accumulation_steps": "use --micro-batch-size: an update's gradient is that of the whole minibatch",
    "auto_find_batch_size": "use --micro-batch-size; --dry-run estimates the memory",
    "generation_batch_size": "use --batch-size, prompts that are sampled at a time",
    "steps_per_generation": "use --minibatch-size: batch_size / minibatch_size updates are made of a batch",
    "num_iterations": "use --epochs, passes over each batch that is sampled",
    "num_train_epochs": "use --updates; --epochs is passes over each batch that is sampled",
    "max_steps": "use --updates",
    "train_sampling_strategy": "rows are in a new order every epoch; --group-by-length groups those of a batch",
    # the optimiser
    "optim": "use --method: adam (decoupled --weight-decay) or sgd",
    "warmup_ratio": "use --warmup-steps with a fraction",
    "lr_scheduler_kwargs": "use --lr-scheduler-type and --warmup-steps",
    "activation_checkpointing": "use --gradient-checkpointing",
    "gradient_checkpointing_kwargs": "use --gradient-checkpointing",
    **dict.fromkeys(("torch_compile_backend", "torch_compile_mode"), "use --torch-compile: inductor, as it is"),
    "use_liger_kernel": "use --logits-at-a-time, which bounds the memory of logits",
    # losses
    "loss_type": "use --algorithm: dpo, ipo, slic, robust-dpo, …; grpo, dapo, dr-grpo, cispo, … are algorithms; "
    "several: --algorithm mixture, with --losses dpo,pref-ft --loss-weights 1,0.2",
    "cliprange": "use --epsilon",
    **dict.fromkeys(
        (
            *("delta", "sapo_temperature_neg", "sapo_temperature_pos", "off_policy_mask_threshold"),
            *("vespo_k_pos", "vespo_k_neg", "vespo_lambda_pos", "vespo_lambda_neg", "use_bias_correction_kl"),
            *("entropy_coef", "use_adaptive_entropy", "entropy_coef_min", "entropy_coef_max", "entropy_coef_delta"),
            *("entropy_target", "top_entropy_quantile", "ld_alpha", "f_divergence_type", "f_alpha_divergence_coef"),
            *("use_weighting", "discopop_tau", "reward_clip_range"),
        ),
        _VARIANT,
    ),
    "normalize_advantages": "use --algorithm grpo, which divides by the group's standard deviation",
    "mask_truncated_completions": "responses that were cut are not masked; --missing-eos-penalty lowers their reward",
    "sync_ref_model": "use --reference copy --reference-every-updates, or --reference ema --reference-rate",
    "ref_model_mixup_alpha": "use --reference ema --reference-rate",
    "ref_model_sync_steps": "use --reference-every-updates",
    "precompute_ref_batch_size": "use --score-batch-size",
    "precompute_ref_log_probs": "the reference scores each batch once",
    "center_rewards_coefficient": "an option of python -m llm reward",
    # the run
    "output_dir": "use --output",
    "overwrite_output_dir": "use --overwrite",
    "run_name": "use --name",
    "logging_steps": "use --log-every",
    "eval_strategy": "use --evaluations, how many there are in a run",
    "eval_steps": "use --evaluations, how many there are in a run",
    "per_device_eval_batch_size": "use --score-batch-size and --sample-batch-size",
    "save_steps": "use --save-every",
    "save_strategy": "use --save-every",
    "resume_from_checkpoint": "use --resume",
    "push_to_hub": "nothing is uploaded; the folder model/ is in transformers' format",
    "data_seed": "use --seed",
    "use_cpu": "use --device cpu",
    "fsdp": "use --sharding full",
    "deepspeed": "use --sharding full",
    **dict.fromkeys(
        (
            *("log_completions", "num_completions_to_print", "log_unique_prompts", "log_completions_hub_repo"),
            "log_multimodal",
        ),
        "samples.jsonl has some of each evaluation",
    ),
    "ignore_bias_buffers": _NOT_HERE,
    "do_train": "the command says what is done: train, sft, reward, evaluate",
    "do_eval": "the command says what is done: train, sft, reward, evaluate",
}
