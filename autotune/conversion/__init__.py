"""Converters of other projects, which make ONNX files of a framework's models in processes of their own."""

from autotune.conversion.converter import Converter
from autotune.conversion.environment import install, interpreter_of
from autotune.conversion.process import Converted, convert, until
from autotune.conversion.tool import ConverterTool

__all__ = ["Converted", "Converter", "ConverterTool", "convert", "install", "interpreter_of", "until"]
