"""Policies with a name."""

from typing import Final

# Names that users know, each by the nearest policy of this package. `turboquant_*` are vLLM's: codes for keys with norm
# correction (nc), plain integers for values, two layers at each end in float16. `turbo*` are those of llama.cpp forks.
# `paper-*` are those of arXiv 2504.19874, whose 2.5 and 3.5 bits are 2.25 and 3.25 of codes and, for 128 numbers, two
# float16 norms. It does not say by what its outlier channels are chosen: here by their energy.
PRESETS: Final = {
    "balanced": "k=mse4,v=mse4,sinks=4,window=128,boundary=2@8",
    "safe": "k=mse8,v=mse4",
    "turboquant_k8v4": "k=mse8,v=int4,boundary=2@16",
    "turboquant_4bit_nc": "k=mse4,v=int4,kscale=norm,boundary=2@16",
    "turboquant_k3v4_nc": "k=mse3,v=int4,kscale=norm,boundary=2@16",
    "turboquant_3bit_nc": "k=mse3,v=int3,kscale=norm,boundary=2@16",
    "turbo4": "k=mse4,v=mse4,kscale=norm,vscale=norm",
    "turbo3": "k=mse3,v=mse3,kscale=norm,vscale=norm",
    "turbo2": "k=mse2,v=mse2,kscale=norm,vscale=norm",
    "paper-2.5": "k=mse3x32+mse2,v=mse3x32+mse2,kscale=plain,vscale=plain",
    "paper-3.5": "k=mse4x32+mse3,v=mse4x32+mse3,kscale=plain,vscale=plain",
}
