"""An LSTM between two linears, reading a picture row by row."""

from __future__ import annotations

from torch import Tensor, nn


class RowLSTM(nn.Module):
    """Pictures ``[n, 1, rows, columns]`` to logits ``[n, classes]``, read from the last row."""

    def __init__(self, columns: int = 28, width: int = 64, classes: int = 10) -> None:
        super().__init__()
        self.embed = nn.Linear(columns, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.lstm(self.embed(x[:, 0]).relu())
        return self.fc(states[:, -1])
