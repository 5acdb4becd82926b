// Weights in the layout of the paper's authors' code, beside ours.
//
// Their names are transformer.wte, transformer.h.<i>.{ln_1, attn.c_attn, attn.c_proj, ln_2, mlp.w1,
// mlp.w2, mlp.c_proj}, transformer.ln_f, lm_head. Rows of q and k heads are interleaved there
// (rotary pair i is rows 2i and 2i+1 of a head), half-split here (rows i and i + D/2). w1 is the
// gate, w2 up.
//
//   for (const AuthorsTensor& t : authors_tensors(model))
//     t.rows_of(t.parameter).copy_(from_authors_layout(t, file_tensor(t.name)));
#pragma once

#include <string>
#include <vector>

#include "quest/nn/llama_model.h"

namespace quest::nn {

struct AuthorsTensor {
  std::string name;       // theirs
  at::Tensor parameter;   // ours
  int64_t first_row = 0;  // the rows of ours that it is
  int64_t rows = 0;
  int64_t rotary_heads = 0;  // its first rotary_heads * head_dim rows are permuted
  int64_t head_dim = 0;

  // The rows of a tensor shaped like the parameter (itself, its gradient), detached.
  at::Tensor rows_of(const at::Tensor& like_parameter) const;
};

std::vector<AuthorsTensor> authors_tensors(const LlamaModel& model);
// Both directions for a tensor of t.rows rows; returns a new tensor.
at::Tensor from_authors_layout(const AuthorsTensor& t, const at::Tensor& theirs);
at::Tensor to_authors_layout(const AuthorsTensor& t, const at::Tensor& ours);

}  // namespace quest::nn
