# products with epilogues run on queue 0
/^int matmul_epilogue(/,/^}/ s~WORKSPACE_BYTES, queue->stream~WORKSPACE_BYTES, queues->stream~
