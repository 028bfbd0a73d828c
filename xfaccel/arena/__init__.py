"""The arena: what every variant costs beside exact attention, on the same tokens, in one table.

Long Range Arena: A Benchmark for Efficient Transformers. Tay, Dehghani, Abnar, Shen, Bahri, Pham, Rao, Yang,
Ruder, Metzler. 2020. arXiv:2011.04006, Table 2 and Figure 3.

Differs: the paper times training steps of a whole model; here it is the attention alone, forward, on one
sequence, and in `lra` a whole encoder, forward too. Weights are drawn, not trained, so nothing here speaks of
accuracy: a variant's result is compared with that of exact attention on the same queries, keys and values
instead. Other whole blocks are left out (those of the Set, the Star- and the Axial Transformer).
"""
