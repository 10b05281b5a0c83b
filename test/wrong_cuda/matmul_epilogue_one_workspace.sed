# all queues give cublasLt the same workspace
/^int matmul_epilogue(/,/^}/ s~queue->workspace~queues->workspace~
