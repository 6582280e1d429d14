"""The recurrent cells that --model offers. A new one is a class in a file of its own and an entry here."""
from cells.cell import Cell
from cells.lstm_gru import GRU, LSTM
from cells.mogrifier import Mogrifier
from cells.qrnn import QRNN
from cells.rhn import RHN

CELLS: dict[str, type[Cell]] = {"LSTM": LSTM, "GRU": GRU, "QRNN": QRNN, "RHN": RHN, "Mogrifier": Mogrifier}
