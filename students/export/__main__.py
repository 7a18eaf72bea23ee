"""`python -m students.export STUDENT --to onnx,coreml,tnn`: see distill/export.py.

The command lives there, since it draws the pictures that files are compared on and judges identities, of which this
package knows nothing; people look for it here.
"""

import runpy

runpy.run_module("distill.export", run_name="__main__")
