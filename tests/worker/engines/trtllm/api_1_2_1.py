"""Names of tensorrt_llm 1.2.1, as far as the adapter may use them: what its stand-in has, and nothing else."""

# ruff: noqa: SIM905

VERSION = "1.2.1"

LLM_ARGUMENTS = """
    model tokenizer tokenizer_mode custom_tokenizer skip_tokenizer_init trust_remote_code tensor_parallel_size
    dtype revision tokenizer_revision pipeline_parallel_size context_parallel_size gpus_per_node
    moe_cluster_parallel_size moe_tensor_parallel_size moe_expert_parallel_size enable_attention_dp
    enable_lm_head_tp_in_adp pp_partition cp_config load_format fail_fast_on_attention_window_too_large
    enable_lora lora_config kv_cache_config enable_chunked_prefill guided_decoding_backend
    batched_logits_processor iter_stats_max_iterations request_stats_max_iterations peft_cache_config
    scheduler_config cache_transceiver_config sparse_attention_config speculative_config max_batch_size
    max_input_len max_seq_len max_beam_width max_num_tokens gather_generation_logits num_postprocess_workers
    postprocess_tokenizer_dir reasoning_parser decoding_config mpi_session otlp_traces_endpoint backend
    return_perf_metrics orchestrator_type env_overrides garbage_collection_gen0_threshold cuda_graph_config
    attention_dp_config disable_overlap_scheduler moe_config nvfp4_gemm_config attn_backend sampler_type
    sampler_force_async_worker enable_iter_perf_stats enable_iter_req_stats print_iter_log
    perf_metrics_max_requests batch_wait_timeout_ms batch_wait_timeout_iters batch_wait_max_tokens_ratio
    torch_compile_config enable_autotuner enable_layerwise_nvtx_marker enable_min_latency stream_interval
    force_dynamic_quantization allreduce_strategy checkpoint_loader checkpoint_format kv_connector_config
    mm_encoder_only ray_worker_extension_cls ray_placement_config enable_sleep disable_flashinfer_sampling
    max_stats_len
    """.split()

ENGINE_ARGUMENTS = """
    model tokenizer tokenizer_mode custom_tokenizer skip_tokenizer_init trust_remote_code tensor_parallel_size
    dtype revision tokenizer_revision pipeline_parallel_size context_parallel_size gpus_per_node
    moe_cluster_parallel_size moe_tensor_parallel_size moe_expert_parallel_size enable_attention_dp
    enable_lm_head_tp_in_adp pp_partition cp_config load_format fail_fast_on_attention_window_too_large
    enable_lora lora_config kv_cache_config enable_chunked_prefill guided_decoding_backend
    batched_logits_processor iter_stats_max_iterations request_stats_max_iterations peft_cache_config
    scheduler_config cache_transceiver_config sparse_attention_config speculative_config max_batch_size
    max_input_len max_seq_len max_beam_width max_num_tokens gather_generation_logits num_postprocess_workers
    postprocess_tokenizer_dir reasoning_parser decoding_config mpi_session otlp_traces_endpoint backend
    return_perf_metrics orchestrator_type env_overrides enable_tqdm workspace enable_build_cache
    extended_runtime_perf_knob_config calib_config quant_config embedding_parallel_mode fast_build
    build_config enable_prompt_adapter max_prompt_adapter_token batching_type normalize_log_probs
    """.split()

NOT_ARGUMENTS = """
    quant_config build_config calib_config model_kwargs pytorch_backend_config use_cuda_graph
    cuda_graph_batch_sizes cuda_graph_max_batch_size cuda_graph_padding_enabled moe_backend kv_cache_dtype
    mixed_sampler enable_mixed_sampler use_torch_sampler enable_trtllm_sampler autotuner_enabled
    enable_overlap_scheduler generation_config kv_events_config
    """.split()

LLM_METHODS = """
    generate generate_async get_stats get_stats_async get_kv_cache_events get_kv_cache_events_async shutdown
    _check_health __enter__ __exit__
    """.split()

GENERATE_ASYNC = """
    inputs sampling_params lora_request prompt_adapter_request streaming kv_cache_retention_config
    disaggregated_params trace_headers _postproc_params scheduling_params cache_salt
    """.split()

REQUEST_OUTPUT = """
    request_id prompt prompt_token_ids outputs context_logits mm_embedding_handle finished
    disaggregated_params cached_tokens decoding_iter avg_decoded_tokens_per_iter metrics_dict abort aborted
    result aresult __aiter__ __anext__ __iter__ __next__ __await__
    """.split()

COMPLETION_OUTPUT = """
    index text token_ids cumulative_logprob logprobs prompt_logprobs finish_reason stop_reason
    generation_logits additional_context_outputs additional_generation_outputs disaggregated_params
    request_perf_metrics length text_diff token_ids_diff logprobs_diff
    """.split()

LOGPROB = """
    logprob rank
    """.split()

# With their defaults.
SAMPLING: dict[str, object] = {
    "end_id": None,
    "pad_id": None,
    "max_tokens": 32,
    "bad": None,
    "bad_token_ids": None,
    "stop": None,
    "stop_token_ids": None,
    "include_stop_str_in_output": False,
    "embedding_bias": None,
    "logits_processor": None,
    "apply_batched_logits_processor": False,
    "n": 1,
    "best_of": None,
    "use_beam_search": False,
    "top_k": None,
    "top_p": None,
    "top_p_min": None,
    "top_p_reset_ids": None,
    "top_p_decay": None,
    "seed": None,
    "temperature": None,
    "min_tokens": None,
    "beam_search_diversity_rate": None,
    "repetition_penalty": None,
    "presence_penalty": None,
    "frequency_penalty": None,
    "prompt_ignore_length": None,
    "length_penalty": None,
    "early_stopping": None,
    "no_repeat_ngram_size": None,
    "min_p": None,
    "beam_width_array": None,
    "logprobs": None,
    "prompt_logprobs": None,
    "return_context_logits": False,
    "return_generation_logits": False,
    "exclude_input_from_output": True,
    "return_encoder_output": False,
    "return_perf_metrics": False,
    "additional_model_outputs": None,
    "lookahead_config": None,
    "guided_decoding": None,
    "ignore_eos": False,
    "detokenize": True,
    "add_special_tokens": True,
    "truncate_prompt_tokens": None,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
}

EXPORTS = {
    "tensorrt_llm": """
    LLM SamplingParams
    """.split(),
    "tensorrt_llm.llmapi": """
    LLM SamplingParams RequestOutput CompletionOutput RequestError GuidedDecodingParams DisaggregatedParams
    LoRARequest KvCacheConfig KvCacheRetentionConfig CudaGraphConfig TorchCompileConfig MoeConfig
    AttentionDpConfig SchedulerConfig CapacitySchedulerPolicy ContextChunkingPolicy DynamicBatchConfig
    BatchingType CacheTransceiverConfig ExtendedRuntimePerfKnobConfig MTPDecodingConfig EagleDecodingConfig
    NGramDecodingConfig LookaheadDecodingConfig MedusaDecodingConfig DraftTargetDecodingConfig
    AutoDecodingConfig UserProvidedDecodingConfig SaveHiddenStatesDecodingConfig BuildConfig BuildCacheConfig
    QuantConfig QuantAlgo CalibConfig LlmArgs TorchLlmArgs TrtLlmArgs MpiCommSession
    """.split(),
    "tensorrt_llm._tensorrt_engine": """
    LLM
    """.split(),
}

CLASSES = {
    "KvCacheConfig": """
    enable_block_reuse max_tokens max_attention_window sink_token_length free_gpu_memory_fraction
    host_cache_size onboard_blocks cross_kv_cache_fraction secondary_offload_min_priority
    event_buffer_max_size attention_dp_events_gather_period_ms enable_partial_reuse copy_on_partial_reuse
    use_uvm max_gpu_total_bytes dtype mamba_ssm_cache_dtype tokens_per_block
    """.split(),
    "CudaGraphConfig": """
    batch_sizes max_batch_size enable_padding
    """.split(),
    "MoeConfig": """
    backend max_num_tokens load_balancer disable_finalize_fusion use_low_precision_moe_combine
    """.split(),
    "SchedulerConfig": """
    capacity_scheduler_policy context_chunking_policy dynamic_batch_config
    """.split(),
    "AttentionDpConfig": """
    enable_balance timeout_iters batching_wait_iters
    """.split(),
    "CacheTransceiverConfig": """
    backend max_tokens_in_buffer kv_transfer_timeout_ms kv_transfer_sender_future_timeout_ms
    """.split(),
    "GuidedDecodingParams": """
    json regex grammar json_object structural_tag
    """.split(),
    "MTPDecodingConfig": """
    max_draft_len max_total_draft_tokens speculative_model max_concurrency draft_len_schedule load_format
    acceptance_window acceptance_length_threshold allow_advanced_sampling num_nextn_predict_layers
    use_relaxed_acceptance_for_thinking relaxed_topk relaxed_delta use_mtp_vanilla mtp_eagle_one_model
    num_nextn_predict_layers_from_model_config begin_thinking_phase_token end_thinking_phase_token
    """.split(),
    "EagleDecodingConfig": """
    max_draft_len max_total_draft_tokens speculative_model max_concurrency draft_len_schedule load_format
    acceptance_window acceptance_length_threshold allow_advanced_sampling eagle_choices greedy_sampling
    posterior_threshold use_dynamic_tree dynamic_tree_max_topK num_eagle_layers max_non_leaves_per_layer
    eagle3_one_model eagle3_layers_to_capture eagle3_model_arch
    """.split(),
    "NGramDecodingConfig": """
    max_draft_len max_total_draft_tokens speculative_model max_concurrency draft_len_schedule load_format
    acceptance_window acceptance_length_threshold allow_advanced_sampling max_matching_ngram_size is_keep_all
    is_use_oldest is_public_pool
    """.split(),
    "LookaheadDecodingConfig": """
    max_draft_len max_total_draft_tokens speculative_model max_concurrency draft_len_schedule load_format
    acceptance_window acceptance_length_threshold allow_advanced_sampling max_window_size max_ngram_size
    max_verification_set_size
    """.split(),
}
