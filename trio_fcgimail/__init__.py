"""trio_fcgimail: an SMTP server that hands every mail to a script over FastCGI.

The protocol cores are :mod:`trio_fcgimail.smtp` and :mod:`trio_fcgimail.fastcgi`; neither they nor this
package import an I/O library, so that embedding a core costs nothing else.
"""

__version__ = "0.1.0"
