# the second moments are not saved, the first twice
/^int checkpoint_tensors(/,/^}/ s~model->m_memory, model->v_memory}~model->m_memory, model->m_memory}~
